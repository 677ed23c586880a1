import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch.multiprocessing as mp
from mlflow import MlflowClient
from safetensors.torch import load_file

from tests import small_training
from tests.small_training import STEPS, without_rate


def train(folder: Path, repository: Path, kills: list[tuple[str, int]]) -> int:
    """Run the training as a process of its own and give its exit status."""
    return subprocess.run(
        [sys.executable, "-m", small_training.__name__, folder / "models" / "small"],
        cwd=folder,
        env={
            **os.environ,
            "KILL": json.dumps(kills),
            "PARALLEL": "fsdp",  # `tests/cluster/test_elastic.py` has DDP
            "PYTHONPATH": str(repository),
        },
        check=False,
        timeout=240,
    ).returncode


@pytest.mark.ray
@pytest.mark.cluster
def test_a_training_whose_ranks_and_driver_were_killed_ends_as_one_never_killed(
    tmp_path: Path, repository: Path
) -> None:
    """Of two sharded ranks one is killed, then the driver, and the stage is started again."""
    mp.set_forkserver_preload([small_training.__name__])
    mp.start_processes(
        small_training.work_without_ray,
        (str(tmp_path), "fsdp"),
        nprocs=2,
        start_method="forkserver",
    )
    # Rows that the victim's rank (for the driver, rank 0) has read: steps 20 and 28.
    kills = [("1", 120), ("driver", 170)]
    out = tmp_path / "models" / "small"
    assert train(tmp_path, repository, kills) == -signal.SIGKILL
    assert {"1-120", "driver-170"} <= {file.name for file in out.parent.iterdir()}
    assert not out.exists()
    assert train(tmp_path, repository, kills) == 0

    expected = load_file(tmp_path / "step.safetensors")
    found = load_file(out / "step.safetensors")
    assert found.keys() == expected.keys()
    assert all(found[name].equal(expected[name]) for name in expected)
    history = json.loads((out / "history.json").read_text())
    assert without_rate(history) == without_rate(
        json.loads((tmp_path / "history.json").read_text())
    )
    assert not any(file.name.startswith("small.partial") for file in out.parent.iterdir())
    _check_tracked(tmp_path, history)


def _check_tracked(folder: Path, history: list[dict[str, float]]) -> None:
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("hdrface")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    for key in ("loss", "pixel", "size", "images_per_s", "workers", "learning_rate"):
        metrics = client.get_metric_history(run.info.run_id, key)
        assert [metric.step for metric in metrics] == STEPS, key
    losses = client.get_metric_history(run.info.run_id, "loss")
    assert [metric.value for metric in losses] == [point["loss"] for point in history]
    stored = {file.path for file in client.list_artifacts(run.info.run_id, "model")}
    assert stored == {"model/step.safetensors", "model/history.json"}
