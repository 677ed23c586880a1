import shutil
import socket
import sqlite3
from pathlib import Path

import pytest

from components.tracking import parent_runs, runs
from components.tracking.outages import TrackingError
from components.tracking.runs import TrainingRun

PARAMS = {"optimization": {"steps": 20, "betas": (0.9, 0.999)}, "mirror": True}


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_database: Path) -> Path:
    """Change to an empty folder, with the default settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return shutil.copy(empty_database, tmp_path / "mlflow.db")


def begin(fingerprint: str = "abc") -> TrainingRun:
    return TrainingRun.begin(
        fingerprint,
        name="train@sd21-sdfm",
        params=PARAMS,
        source="pipelines.train",
        commit={"commit": "1a2b", "dirty": False},
        inputs={"features": "f00d" * 16},
        lineage={"dvc": {"data/features/sd21": "cafe.dir"}},
    )


def steps(run: TrainingRun, key: str = "loss") -> list[int]:
    return [metric.step for metric in run._client.get_metric_history(run.id, key)]


def points(*numbers: int) -> list[dict[str, float]]:
    return [{"step": step, "loss": 1 / step, "images_per_s": 10.0} for step in numbers]


@pytest.mark.usefixtures("database")
def test_runs_lie_in_one_experiment() -> None:
    run = begin()
    found = run._client.get_run(run.id)
    assert run._client.get_experiment(found.info.experiment_id).name == "hdrface"
    assert found.data.params == {
        "optimization.steps": "20",
        "optimization.betas": "(0.9, 0.999)",
        "mirror": "True",
    }
    assert found.data.tags["hdrface.fingerprint"] == "abc"
    assert found.data.tags["mlflow.source.name"] == "pipelines.train"
    assert found.data.tags["mlflow.source.git.commit"] == "1a2b"
    [learnt_from] = [each.dataset for each in found.inputs.dataset_inputs]
    assert learnt_from.name == "features"
    assert learnt_from.source == "f00d" * 16
    [lineage] = run._client.list_artifacts(run.id)
    assert lineage.path == "lineage.json"
    assert found.info.status == "RUNNING"


def test_an_unfinished_run_continues_and_has_no_step_twice(database: Path) -> None:
    first = begin()
    first.log_points(points(5, 10))
    first.fail()
    second = begin()
    assert second.id == first.id
    assert second._client.get_run(second.id).info.status == "RUNNING"
    second.log_points(points(5, 10, 15))
    second.log_points(points(15, 20))
    assert steps(second) == steps(second, "images_per_s") == [5, 10, 15, 20]
    with sqlite3.connect(database) as opened:
        assert opened.execute("select count(*) from metrics where key = 'loss'").fetchone() == (4,)


@pytest.mark.usefixtures("database")
def test_after_a_finished_run_a_new_one_begins() -> None:
    first = begin()
    first.log_points(points(5))
    first.finish()
    second = begin()
    assert second.id != first.id
    second.log_points(points(5))
    assert steps(first) == steps(second) == [5]


@pytest.mark.usefixtures("database")
def test_the_run_of_a_training_is_found_finished_ones_first() -> None:
    assert runs.run_of("abc") is None
    first = begin()
    assert runs.run_of("abc") == first.id
    first.finish()
    begin()
    assert runs.run_of("abc") == first.id
    assert runs.run_of("other") is None


@pytest.mark.usefixtures("database")
def test_a_long_history_arrives_complete() -> None:
    run = begin()
    run.log_points(points(*range(1, 1201)))
    assert steps(run) == list(range(1, 1201))


@pytest.mark.usefixtures("database")
def test_the_model_is_an_artifact_beside_the_database(tmp_path: Path) -> None:
    run = begin()
    folder = tmp_path / "trained"
    (folder / "unet").mkdir(parents=True)
    (folder / "restorer.json").write_text("{}")
    (folder / "unet" / "weights.safetensors").write_bytes(b"1")
    run.log_model(folder)
    stored = list((tmp_path / "mlartifacts").rglob("model/unet/weights.safetensors"))
    assert len(stored) == 1
    assert stored[0].samefile(folder / "unet" / "weights.safetensors")  # not a second one
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    assert runs.download_model(run.id, downloads) / "unet" / "weights.safetensors" == stored[0]
    assert not list(downloads.iterdir())
    with pytest.raises(ValueError, match=rf"run {begin('def').id} at .* has no model"):
        runs.download_model(begin("def").id, downloads)


@pytest.mark.usefixtures("database")
def test_a_trained_model_has_its_parameters_and_scores_in_mlflows_list_of_models(
    tmp_path: Path,
) -> None:
    run = runs.TrainingRun.begin(
        "f1", name="train@sd21-sdfm", params={"backbone": "sd21", "lora": {"rank": 16}, "seed": 1}
    )
    run.log_points(points(1, 2, 3))
    (tmp_path / "trained").mkdir()
    (tmp_path / "trained" / "restorer.json").write_text("{}")
    for _ in range(2):  # as after a kill
        run.log_model(tmp_path / "trained")
    run.finish()
    runs.log_evaluation(run.id, {"psnr": 23.5, "psnr_low": 23.0}, [])

    experiment = run._client.get_run(run.id).info.experiment_id
    [model] = run._client.search_logged_models([experiment])
    assert (model.name, str(model.status)) == ("train@sd21-sdfm", "READY")
    assert model.params == {"backbone": "sd21", "lora.rank": "16"}
    assert {metric.key: metric.value for metric in model.metrics or ()} == {
        "psnr": 23.5,
        "psnr_low": 23.0,
    }
    assert model.tags["hdrface.files"] == f"runs:/{run.id}/model"
    outputs = run._client.get_run(run.id).outputs
    assert outputs is not None
    assert [(one.model_id, one.step) for one in outputs.model_outputs] == [(model.model_id, 3)]
    assert run._client.get_run(run.id).data.metrics["psnr"] == 23.5


@pytest.mark.usefixtures("database")
def test_an_evaluation_is_written_into_the_run_of_its_training(tmp_path: Path) -> None:
    run = begin()
    run.finish()
    picture = tmp_path / "gallery.png"
    picture.write_bytes(b"png")
    for _ in range(2):  # an evaluation may be repeated
        runs.log_evaluation(run.id, {"psnr.restored.mean": 23.5}, [picture])
    found = run._client.get_run(run.id)
    assert found.info.status == "FINISHED"
    assert found.data.metrics["psnr.restored.mean"] == 23.5
    assert steps(run, "psnr.restored.mean") == [0]
    shown = f"get-artifact?path=gallery%2Fgallery.png&run_uuid={run.id}"
    assert shown in found.data.tags["mlflow.note.content"]
    assert [item.path for item in run._client.list_artifacts(run.id, "gallery")] == [
        "gallery/gallery.png"
    ]


def test_the_environment_names_another_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/elsewhere/../other.db")
    (tmp_path / "elsewhere").mkdir()
    begin()
    assert (tmp_path / "other.db").exists()
    assert not (tmp_path / "mlflow.db").exists()


@pytest.mark.usefixtures("database")
def test_the_next_begin_writes_parameters_that_a_kill_prevented(tmp_path: Path) -> None:
    first = begin()
    with sqlite3.connect(tmp_path / "mlflow.db") as opened:
        opened.execute("delete from params where key = 'mirror'")
    second = begin()
    assert second.id == first.id
    assert second._client.get_run(second.id).data.params["mirror"] == "True"


def test_a_missing_server_at_the_start_is_an_error_of_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = f"http://127.0.0.1:{taken.getsockname()[1]}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", nobody)
    monkeypatch.setattr(runs, "_BEGIN_LIMIT_S", 0)
    with pytest.raises(TrackingError) as caught:
        begin()
    told = str(caught.value)
    assert told.startswith(f"MLflow at {nobody} (MLFLOW_TRACKING_URI) has not answered for 0 s")
    assert "Connection refused" in told
    assert len(told.splitlines()) == 1


@pytest.mark.parametrize(
    "uri",
    [
        "http://somebody:hidden-1f@127.0.0.1:5000",
        "https://hidden-1f@127.0.0.1/mlflow",
        "postgresql://somebody:hidden-1f@127.0.0.1/runs",
        "postgresql://127.0.0.1/runs?user=somebody&password=hidden-1f",
        "http://[hidden-1f",
    ],
)
def test_an_address_with_a_password_is_refused_and_not_repeated(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(ValueError, match="MLFLOW_TRACKING_URI") as caught:
        begin()
    assert "hidden" not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.usefixtures("database")
def test_an_ablation_has_its_trainings_below_it_and_is_one_run_however_often_it_ends(
    tmp_path: Path,
) -> None:
    children = []
    for fingerprint in ("abc", "def"):
        run = begin(fingerprint)
        run.finish()
        children.append(run.id)
    table = tmp_path / "condition.md"
    table.write_text("| a |")
    parents = {
        parent_runs.gather("condition", children, description="| a |", files=[table])
        for _ in range(2)
    }
    [parent] = parents
    client = run._client
    for child in children:
        assert client.get_run(child).data.tags["mlflow.parentRunId"] == parent
    found = client.get_run(parent)
    assert found.info.status == "FINISHED"
    description = found.data.tags["mlflow.note.content"]
    assert description.startswith("| a |\n")
    assert all(child in description for child in children)  # in the link to their charts
    assert [file.path for file in client.list_artifacts(parent)] == ["condition.md"]
