"""The line alone and on nodes that share nothing but S3: the same bytes, whatever happens.

One run of each carries everything, as a line takes minutes. Alone, DVC is killed, and a third
family is trained. On the cluster, a node is lost at a table and another at a training, S3 fails now
and then, and an MLflow server keeps the runs.
"""

import json
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from components.tables import Table
from components.weights.manifest import RESTORER, Description
from tests.cluster.ray_nodes import Nodes, ray_nodes
from tests.end_to_end import alone as line_alone
from tests.end_to_end.alone import SIZES
from tests.end_to_end.checkout import Checkout
from tests.faulty_proxy import FaultyProxy
from tests.servers import BUCKET, S3_SECRET, MlflowServer, postgres, s3_environment, s3_server

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

ROOT = f"s3://{BUCKET}/root"
PROFILE = (
    *("smoke", *SIZES, "plain.backbones=[sd21]", "train.backbones=[qwen]", "~intermediates.sd21"),
    *("report.names=[qwen-sdfm]", "register.candidates=[qwen-sdfm]"),
)
TABLES = ("faces", "pairs", "intermediates/qwen", "features/qwen")
MODELS = ("sd21-text", "qwen-sdfm")


class Line(NamedTuple):
    """A cluster, and a checkout beside it."""

    nodes: Nodes
    home: Checkout
    environment: dict[str, str]  # of the head, and of who submits
    output: list[str]  # lines that `submit` has printed

    def submit(self) -> int:
        """Run the line; gives the exit code."""
        command = ("submit", "--", "dvc", "repro")
        with self.nodes.hdrface(self.home.folder, *command, **self.environment) as process:
            assert process.stdout is not None
            self.output.extend(process.stdout)
        return process.returncode


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, ray_session: str) -> Checkout:
    """Run the line without a cluster."""
    return line_alone.run_alone(tmp_path_factory.mktemp("alone"), ray_session)


@pytest.mark.ray
def test_the_line_survives_the_end_of_dvc_and_a_second_run_does_nothing(alone: Checkout) -> None:
    summary = json.loads((alone.folder / "metrics/summary.json").read_text())
    assert set(summary) == {"toy-sdfm"}
    scores = summary["toy-sdfm"]["psnr"]
    assert {"degraded", "intermediate", "restored", "gain"} <= set(scores)
    assert scores["restored"]["n"] > 1
    assert (alone.folder / "reports/index.html").stat().st_size > 10_000
    assert not list(alone.folder.rglob("*.partial"))
    assert "toy-sdfm" in alone.hdrface("results")
    assert "toy" in alone.hdrface("inspect", "models/toy-sdfm")
    trained = alone.folder / "models/toy-sdfm/unet/diffusion_pytorch_model.safetensors"
    assert trained.is_file()

    # Nothing to do: neither for a second run nor for another number of workers.
    other = ("compute.degrade.workers=1", "compute.train.cpus=2")
    alone.hdrface("config", "use", *line_alone.PROFILE, *other)
    output = alone.succeed("dvc", "repro")
    assert "Running stage" not in output
    assert "up to date" in output


@pytest.mark.ray
def test_an_ablation_shares_what_its_variants_have_in_common(alone: Checkout) -> None:
    # DVC's experiments need git. As after the first run in a clone, it knows neither the lock nor
    # the scores yet.
    alone.commit("dvc.lock", "metrics")
    before = (alone.folder / "params.yaml").read_bytes()
    printed = alone.hdrface("ablate", "--over", "evaluate.seed=42,1")
    # 42 is the profile's: all of it is there.
    assert re.findall(r"Running stage '(.*)'", printed) == ["evaluate@toy-sdfm"]
    table = json.loads((alone.folder / "reports/ablations/sweep.json").read_text())
    assert table["choice"] == "seed-42"
    assert {row["variant"] for row in table["rows"]} == {"seed-42", "seed-1"}
    assert {row["metric"] for row in table["rows"]} >= {"psnr", "ssim"}
    assert (alone.folder / "params.yaml").read_bytes() == before
    assert "sweep-seed-1" in alone.succeed("dvc", "exp", "list", "--name-only")
    alone.succeed("git", "add", "dvc.lock", "metrics")  # as DVC advises
    assert "Running stage" not in alone.hdrface("ablate", "--over", "evaluate.seed=42")


@pytest.fixture
def line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Line]:
    """Start S3 and a cluster: a head for no work, and two nodes."""
    from components import storage

    home = Checkout(tmp_path / "home", os.environ)
    line_alone.add_a_family(home)  # it is of no use here, but sources count
    home.hdrface("config", "use", *PROFILE)
    home.commit()
    storage._s3.cache_clear()
    with s3_server() as endpoint, ray_nodes(os.environ, [home.folder]) as nodes:
        environment = {**s3_environment(endpoint), "HDRFACE_ROOT": ROOT}
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        home.environment = {**home.environment, **environment}
        yield Line(nodes, home, environment, [])


def _start(line: Line, **settings: str) -> None:
    """Start the nodes. The head alone knows how to reach S3: workers get it from the driver."""
    line.nodes.start_head({**line.environment, **settings}, cpus=0)
    for name in ("1", "2"):
        line.nodes.start(name, {})
    line.nodes.wait_until_joined("1", "2")


def _assert_same(line: Line, alone: Path) -> None:
    """Compare tables and networks with those that were made without a cluster."""
    for name in TABLES:
        here = Table.open(line.home.folder / "data" / name)
        here.verify()
        there = Table.open(alone / "data" / name)
        assert not here.place.is_folder
        assert (here.path / "manifest.json").read_bytes() == (
            there.path / "manifest.json"
        ).read_bytes(), name
    for name in MODELS:
        here, there = (
            Description.read(folder / "models" / name, RESTORER)
            for folder in (line.home.folder, alone)
        )
        assert here.files == there.files, name
        assert here.fingerprint == there.fingerprint, name


class Losses:
    """Kills nodes at work, when the first file of that work is about to be stored."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self._whole: set[str] = set()  # manifests of finished tables
        # Which node, how many tables are finished before, and what its work writes.
        self.left = [
            ("2", 1, "/tables/", ".partial/notes/"),  # in degrade
            ("1", 4, "/trainings/", "checkpoint_"),  # in train
        ]
        self._lock = threading.Lock()

    def before_put(self, path: str) -> None:
        with self._lock:
            if "/tables/" in path and path.endswith("/manifest.json"):
                self._whole.add(path)
            if not self.left:
                return
            name, num_tables, folder, sign = self.left[0]
            if len(self._whole) >= num_tables and folder in path and sign in path:
                self.left.pop(0)
                self._nodes.kill(name)
                # As a machine that starts again.
                threading.Timer(5, self._nodes.start, (name, {})).start()


def test_lost_nodes_and_a_faulty_s3_change_nothing_and_the_results_come_back(
    line: Line, alone: Checkout, tmp_path: Path
) -> None:
    s3 = line.environment["AWS_ENDPOINT_URL"]
    proxy, losses = FaultyProxy(s3, busy=0.05, cut=0.05), Losses(line.nodes)
    proxy.before_put = losses.before_put
    with (
        proxy.serve() as endpoint,
        postgres() as store,
        MlflowServer(store, s3_environment(s3), tmp_path / "log") as mlflow,
    ):
        line.environment["MLFLOW_TRACKING_URI"] = mlflow.url
        _start(line, AWS_ENDPOINT_URL=endpoint)
        assert line.submit() == 0, "".join(line.output)
        assert "Running stage" in "".join(line.output)
        assert not losses.left
        assert proxy.faults["busy"] > 20
        assert proxy.faults["cut"] > 20

        line.home.succeed("dvc", "pull")
        _assert_same(line, alone.folder)
        assert (line.home.folder / "reports/index.html").stat().st_size > 10_000
        assert "Running stage" not in line.home.succeed("dvc", "repro")
        _assert_tracked(mlflow.url, line.home.folder)
    _assert_nowhere(S3_SECRET, [line.nodes.folder, line.home.folder, tmp_path / "log"], line.output)


def _assert_tracked(url: str, folder: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(url)
    experiment = client.get_experiment_by_name("hdrface")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=folder, check=True, capture_output=True, text=True
    )
    assert {run.info.run_name for run in runs} == {"plain@sd21", "train@qwen-sdfm"}
    for run in runs:
        assert run.info.status == "FINISHED"
        assert run.data.tags["mlflow.source.git.commit"] == head.stdout.strip()
        history = client.get_metric_history(run.info.run_id, "loss")
        assert [point.step for point in history] == [2, 4]
        assert client.list_artifacts(run.info.run_id, "model")
        assert run.data.params["backbone"] in run.info.run_name


def _assert_nowhere(secret: str, folders: list[Path], output: list[str]) -> None:
    assert secret not in "".join(output)
    found = subprocess.run(
        ["grep", "-rlF", secret, *map(str, folders)], check=False, capture_output=True, text=True
    )
    assert found.returncode == 1, found.stdout + found.stderr
