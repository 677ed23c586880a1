"""Training on nodes that come and go: real ones of Ray, one CPU each, beside a head for no work."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest
import torch
import torch.multiprocessing as mp
from ray.cluster_utils import Cluster
from safetensors.torch import load_file

from tests import small_training
from tests.small_training import STEPS, without_rate

pytestmark = [pytest.mark.cluster, pytest.mark.ray]
PATIENCE_S = 300


class Run:
    """A training as a process of its own, and what it says, with the time of each line."""

    def __init__(self, folder: Path, repository: Path, address: str, **settings: str) -> None:
        self.out = folder / "models" / "small"
        self.lines: list[tuple[float, str]] = []
        self._found = 0  # lines that were waited for, and those before
        self.process = subprocess.Popen(
            [sys.executable, "-m", small_training.__name__, self.out],
            cwd=folder,
            env={
                **os.environ,
                "PYTHONPATH": str(repository),
                "RAY_ADDRESS": address,
                "HDRFACE_ROOT": str(folder / "root"),
                **settings,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append((time.monotonic(), line))

    def wait_for(self, text: str) -> float:
        """Wait until a line has a text, and give the time of the line; it is not found again."""
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            for index, (said_at, line) in enumerate(self.lines[self._found :], self._found):
                if text in line:
                    self._found = index + 1
                    return said_at
            assert self.process.poll() is None, self.lines
            time.sleep(0.1)
        raise AssertionError(f"nothing said '{text}': {self.lines}")

    def wait_for_checkpoint(self) -> None:
        """Wait until Ray lists a checkpoint: the parts of all workers are there."""
        end = time.monotonic() + PATIENCE_S
        while not self._has_checkpoint():
            assert time.monotonic() < end, self.lines
            time.sleep(0.1)

    def _has_checkpoint(self) -> bool:
        lists = self.out.parents[1].glob("root/trainings/**/checkpoint_manager_snapshot.json")
        return any('"checkpoint_dir_name"' in file.read_text() for file in lists)

    def history(self) -> list[dict[str, float]]:
        assert self.process.wait(PATIENCE_S) == 0, self.lines
        history: list[dict[str, float]] = json.loads((self.out / "history.json").read_text())
        return history


@contextmanager
def cluster() -> Iterator[Cluster]:
    with pytest.MonkeyPatch.context() as patch:  # workers import the training from here
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        yield from _cluster()


def _cluster() -> Iterator[Cluster]:
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        yield nodes
    finally:
        nodes.shutdown()


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
    """Train on two workers without Ray, and give weights and history."""
    folder = tmp_path_factory.mktemp("undisturbed")
    mp.start_processes(
        small_training.work_without_ray, (str(folder),), nprocs=2, start_method="fork"
    )
    history = json.loads((folder / "history.json").read_text())
    return load_file(folder / "step.safetensors"), history


def test_a_training_goes_on_with_fewer_workers_and_with_more_again(
    tmp_path: Path,
    repository: Path,
    undisturbed: tuple[dict[str, torch.Tensor], list[dict[str, float]]],
    record_property: Callable[[str, object], None],
) -> None:
    weights, expected = undisturbed
    waits = json.dumps({"start_wait_s": 10, "resize_interval_s": 1})
    with cluster() as nodes:
        nodes.add_node(num_cpus=1)
        lost = nodes.add_node(num_cpus=1)
        # Slow enough for a node to come back while one worker does the work of two.
        settings = {"WORKERS": "[1, 2]", "COMPUTE": waits, "PAUSE_S": "0.3"}
        run = Run(tmp_path, repository, nodes.address, **settings)
        run.wait_for("training with 2 of 2 workers")
        run.wait_for_checkpoint()
        killed_at = time.monotonic()
        nodes.remove_node(lost, allow_graceful=False)
        fewer_at = run.wait_for("training with 1 of 2 workers")
        nodes.add_node(num_cpus=1)
        resized_at = run.wait_for("room for 2 workers")
        more_at = run.wait_for("training with 2 of 2 workers")
        history = run.history()
    record_property("from 2 to 1, s", fewer_at - killed_at)
    record_property("from 1 to 2, s", more_at - resized_at)
    assert [point["step"] for point in history] == STEPS
    sizes = [point["workers"] for point in history]
    assert sizes == sorted(sizes[: sizes.index(1)]) + [1] * sizes.count(1) + [2] * (
        len(sizes) - sizes.index(1) - sizes.count(1)
    )
    assert sizes[0] == sizes[-1] == 2, run.lines
    found = load_file(run.out / "step.safetensors")
    for name, tensor in weights.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-4, msg=name)
    for one, other in zip(history, expected, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-3)


def test_a_fixed_number_waits_for_the_node_and_ends_with_the_same_bytes(
    tmp_path: Path,
    repository: Path,
    undisturbed: tuple[dict[str, torch.Tensor], list[dict[str, float]]],
) -> None:
    weights, expected = undisturbed
    with cluster() as nodes:
        nodes.add_node(num_cpus=1)
        lost = nodes.add_node(num_cpus=1)
        run = Run(tmp_path, repository, nodes.address, PAUSE_S="0.1")
        run.wait_for("training with 2 of 2 workers")
        run.wait_for_checkpoint()
        nodes.remove_node(lost, allow_graceful=False)
        run.wait_for("waiting for room for 2 workers of 1 CPUs; now there is room for 1")
        nodes.add_node(num_cpus=1)
        history = run.history()
    assert without_rate(history) == without_rate(expected)
    found = load_file(run.out / "step.safetensors")
    assert all(found[name].equal(weights[name]) for name in weights)
