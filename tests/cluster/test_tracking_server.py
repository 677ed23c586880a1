"""Trainings and a real MLflow server, on PostgreSQL and S3, that is away: a while, or for good."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from components.tracking import outages, runs
from components.tracking.runs import TrainingRun
from tests import small_training
from tests.faulty_proxy import FaultyProxy
from tests.servers import BUCKET, S3_SECRET, MlflowServer, postgres, s3_environment, s3_server
from tests.small_training import STEPS

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

PASSWORD = "not-a-real-password-77ab"
PATIENCE_S = 200


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with s3_server() as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def server(s3: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    log = tmp_path_factory.mktemp("mlflow") / "log"
    with postgres() as store, MlflowServer(store, s3_environment(s3), log) as running:
        yield running


class Project:
    """A folder in which one small training runs at a time, as a process of its own."""

    def __init__(self, folder: Path, server: MlflowServer, repository: Path) -> None:
        self.folder, self.server = folder, server
        self.out = folder / "models" / "small"
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(repository),
            "MLFLOW_TRACKING_URI": server.url,
            # The server does not ask for them: they must only not be told to anybody.
            "MLFLOW_TRACKING_USERNAME": "somebody",
            "MLFLOW_TRACKING_PASSWORD": PASSWORD,
        }
        self._known = {run.info.run_id for run in self._runs()}

    def start(self, **settings: object) -> None:
        with (self.folder / "said").open("w") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", small_training.__name__, self.out],
                cwd=self.folder,
                env={**self._environment, **{name: str(value) for name, value in settings.items()}},
                stdout=said,
                stderr=subprocess.STDOUT,
            )

    def end(self) -> tuple[int, str]:
        """Wait for the training; give its exit code and what it said."""
        code = self.process.wait(PATIENCE_S)
        assert PASSWORD not in self.said()
        return code, self.said()

    def said(self) -> str:
        return (self.folder / "said").read_text()

    def wait_for_points(self) -> None:
        self.wait_until(lambda: any(self._steps(run, "loss") for run in self._new_runs()))

    def wait_until(self, is_so: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE_S
        while not is_so():
            assert time.monotonic() < end, "nothing happens"
            assert self.process.poll() is None, self.said()
            time.sleep(0.2)

    def check_finished(self) -> None:
        """Find one finished run with each point once, and the model."""
        [run] = self._new_runs()
        assert run.info.status == "FINISHED"
        for key in ("loss", "pixel", "size", "images_per_s", "learning_rate"):
            assert self._steps(run, key) == STEPS, key
        history = json.loads((self.out / "history.json").read_text())
        logged = sorted(
            (metric.step, metric.value)
            for metric in self._client.get_metric_history(run.info.run_id, "loss")
        )
        assert logged == [(point["step"], point["loss"]) for point in history]
        stored = {file.path for file in self._client.list_artifacts(run.info.run_id, "model")}
        assert stored == {"model/step.safetensors", "model/history.json"}
        assert [file.name for file in self.out.parent.glob("small.partial*")] == []

    @property
    def _client(self) -> MlflowClient:
        return MlflowClient(self.server.url)

    def _runs(self) -> list[Run]:
        experiment = self._client.get_experiment_by_name(runs.EXPERIMENT)
        return (
            [] if experiment is None else list(self._client.search_runs([experiment.experiment_id]))
        )

    def _new_runs(self) -> list[Run]:
        return [run for run in self._runs() if run.info.run_id not in self._known]

    def _steps(self, run: Run, key: str) -> list[int]:
        history = self._client.get_metric_history(run.info.run_id, key)
        return sorted(metric.step for metric in history)


@pytest.fixture
def project(tmp_path: Path, server: MlflowServer, repository: Path) -> Iterator[Project]:
    made = Project(tmp_path, server, repository)
    yield made
    made.process.kill()


def test_a_run_is_read_back_from_the_database_and_its_model_from_s3(
    server: MlflowServer, s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import boto3

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    (tmp_path / "model/unet").mkdir(parents=True)
    (tmp_path / "model/unet/weights.safetensors").write_bytes(bytes(range(256)) * 40_000)
    (tmp_path / "gallery.png").write_bytes(b"png")
    run = TrainingRun.begin(
        "abc",
        name="train@x",
        params={"optimization": {"steps": 20}},
        commit={"commit": "1a2b", "dirty": False},
    )
    run.log_points([{"step": step, "loss": 1 / step} for step in (5, 10)])
    run.log_model(tmp_path / "model")
    run.finish()
    assert runs.run_of("abc") == run.id
    for _ in range(2):
        runs.log_evaluation(run.id, {"psnr": 23.5}, [tmp_path / "gallery.png"])

    client = MlflowClient(server.url)
    found = client.get_run(run.id)
    assert found.info.status == "FINISHED"
    assert found.data.params == {"optimization.steps": "20"}
    assert found.data.tags["mlflow.source.git.commit"] == "1a2b"
    losses = [(each.step, each.value) for each in client.get_metric_history(run.id, "loss")]
    assert losses == [(5, 0.2), (10, 0.1)]
    assert len(client.get_metric_history(run.id, "psnr")) == 1
    back = client.download_artifacts(run.id, "model/unet/weights.safetensors", str(tmp_path))
    assert Path(back).read_bytes() == (tmp_path / "model/unet/weights.safetensors").read_bytes()
    bucket = boto3.client(
        "s3",
        endpoint_url=s3,
        region_name="us-east-1",
        aws_access_key_id="key",
        aws_secret_access_key=S3_SECRET,
    )
    keys = {each["Key"] for each in bucket.list_objects_v2(Bucket=BUCKET)["Contents"]}
    stored = {key.partition(f"{run.id}/artifacts/")[2] for key in keys}
    assert {"model/unet/weights.safetensors", "gallery/gallery.png"} <= stored


def test_points_whose_answers_are_lost_are_there_once(
    server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outages, "_RETRY_EVERY_S", 0.02)
    proxy = FaultyProxy(server.url, busy=0.15, cut=0.3)
    with proxy.serve() as url:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        run = TrainingRun.begin("lost-answers", name="train@x", params={"a": 1})
        history: list[dict[str, float]] = []
        for step in range(1, 41):
            history.append({"step": step, "loss": 1 / step, "pixel": 2 / step})
            run.log_points(history)
        run.finish()
    assert proxy.faults["cut"] > 10
    client = MlflowClient(server.url)
    for key in ("loss", "pixel"):
        metrics = client.get_metric_history(run.id, key)
        assert sorted(metric.step for metric in metrics) == list(range(1, 41))


@pytest.mark.ray
def test_a_server_that_is_away_a_while_or_for_good_or_at_the_end_costs_no_training(
    project: Project,
) -> None:
    project.start(PAUSE_S=1, LIMIT_S=4)  # slow enough that it is not at its end by then
    project.wait_for_points()
    project.server.stop()
    code, said = project.end()
    assert code != 0
    _check_told(project, said)

    project.server.start()
    hold = project.folder / "hold"
    # Both longer than a server takes to start.
    project.start(PAUSE_S=0.8, LIMIT_S=45, HOLD=hold)
    project.wait_until(lambda: "goes on after step" in project.said())
    project.server.stop()
    project.wait_until(lambda: "does not answer" in project.said())
    project.server.start()
    project.wait_until(lambda: "answers again, after" in project.said())
    project.wait_until((project.folder / "exporting").exists)
    project.server.stop()
    hold.touch()
    code, said = project.end()
    assert code != 0
    assert said.count("answers again, after") == 1
    _check_told(project, said)

    project.server.start()
    (project.folder / "exporting").unlink()
    project.start(HOLD=hold)
    code, said = project.end()
    assert code == 0, said
    assert not (project.folder / "exporting").exists()  # it was trained already
    project.check_finished()


def _check_told(project: Project, said: str) -> None:
    assert not project.out.exists()
    last = said.strip().splitlines()[-1]
    assert "TrainingError: MLflow at " + project.server.url in last, said
    assert "(MLFLOW_TRACKING_URI) has not answered for" in last
    assert "its checkpoint is kept; the same command goes on from it" in last
