import shutil
import socket
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import LoggedModel

from components.tracking import parent_runs, runs
from components.tracking.outages import TrackingError
from components.tracking.runs import TrainingRun
from tests.mlflow_database import Killed

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
    assert model.params == {"backbone": "sd21", "lora.rank": "16", "step": "3"}
    assert {metric.key: metric.value for metric in model.metrics or ()} == {
        "psnr": 23.5,
        "psnr_low": 23.0,
    }
    assert model.tags["hdrface.files"] == f"runs:/{run.id}/model"
    outputs = run._client.get_run(run.id).outputs
    assert outputs is not None
    assert [(one.model_id, one.step) for one in outputs.model_outputs] == [(model.model_id, 3)]
    assert run._client.get_run(run.id).data.metrics["psnr"] == 23.5


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """Make a trained folder, as far as MLflow looks into it."""
    folder = tmp_path / "trained"
    folder.mkdir()
    (folder / "restorer.json").write_text("{}")
    return folder


def validated(psnr: Mapping[int, float], best: Mapping[int, int]) -> list[dict[str, float]]:
    """Return points of every second step up to 8; `best` has the best step so far, if one is kept.

    The structural similarity is a tenth of the PSNR.
    """
    found = points(2, 4, 6, 8)
    for point in found:
        if (step := int(point["step"])) in psnr:
            point |= {"validation_psnr": psnr[step], "validation_ssim": psnr[step] / 10}
        if step in best:
            point["best_step"] = best[step]
    return found


def begin_keeping(fingerprint: str, keep_best: str | None = "psnr") -> TrainingRun:
    validation = {"every": 4, "keep_best": keep_best}
    return TrainingRun.begin(
        fingerprint, name=f"train@{fingerprint}", params={"validation": validation}
    )


def model_of(run: TrainingRun) -> LoggedModel:
    [model] = run._client.search_logged_models(
        [run._client.get_run(run.id).info.experiment_id],
        filter_string=f"source_run_id = '{run.id}'",
    )
    return model


def scores_of(model: LoggedModel) -> list[tuple[str, int, float]]:
    return sorted((one.key, one.step, one.value) for one in model.metrics or ())


WORSE_LATER = validated({4: 21.0, 8: 20.0}, best={4: 4, 8: 4})
ITS_SCORES = [
    ("kept_psnr", 4, 21.0),
    ("kept_ssim", 4, 2.1),
    ("validation_psnr", 4, 21.0),
    ("validation_psnr", 8, 20.0),
    ("validation_ssim", 4, 2.1),
    ("validation_ssim", 8, 2.0),
]


@pytest.mark.usefixtures("database")
def test_a_model_has_the_scores_of_its_validations_and_says_which_step_it_is(trained: Path) -> None:
    run = begin_keeping("a")
    run.log_points(WORSE_LATER)
    for _ in range(2):  # as after a lost answer
        run.log_model(trained)
    model = model_of(run)
    assert scores_of(model) == ITS_SCORES
    assert model.params == {"validation.keep_best": "psnr", "step": "4"}
    outputs = run._client.get_run(run.id).outputs
    assert outputs is not None
    assert [one.step for one in outputs.model_outputs] == [4]
    # MLflow keeps each score once in the run as well.
    assert steps(run, "validation_psnr") == steps(run, "validation_ssim") == [4, 8]
    assert steps(run, "kept_psnr") == [4]


@pytest.mark.usefixtures("database")
def test_models_are_found_in_the_order_of_the_scores_that_they_were_kept_for(trained: Path) -> None:
    kept = begin_keeping("kept")
    kept.log_points(validated({4: 23.0, 8: 20.0}, best={4: 4, 8: 4}))
    last = begin_keeping("last", keep_best=None)
    last.log_points(validated({4: 20.0, 8: 22.0}, best={}))
    for run in (kept, last):
        run.log_model(trained)
    assert model_of(last).params == {"validation.keep_best": "None", "step": "8"}
    client = kept._client
    experiment = client.get_run(kept.id).info.experiment_id

    def best_first(metric: str) -> list[str]:
        order = [{"field_name": f"metrics.{metric}", "ascending": False}]
        return [model.name for model in client.search_logged_models([experiment], order_by=order)]

    assert best_first("kept_psnr") == ["train@kept", "train@last"]
    assert best_first("validation_psnr") == ["train@last", "train@kept"]  # of the last step


@pytest.mark.usefixtures("database")
def test_a_model_has_the_scores_that_were_logged_before_its_training_was_killed(
    trained: Path,
) -> None:
    begin_keeping("a").log_points(WORSE_LATER[:2])
    resumed = begin_keeping("a")
    resumed.log_points(WORSE_LATER)
    resumed.log_model(trained)
    assert scores_of(model_of(resumed)) == ITS_SCORES
    assert steps(resumed, "validation_psnr") == [4, 8]


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize(
    "write", ["create_logged_model", "log_batch", "finalize_logged_model", "log_outputs"]
)
def test_a_kill_while_the_model_is_logged_neither_loses_nor_doubles_a_score(
    trained: Path, monkeypatch: pytest.MonkeyPatch, write: str
) -> None:
    run = begin_keeping("a")
    run.log_points(WORSE_LATER)
    written = getattr(MlflowClient, write)

    def killed_after(*arguments: Any, **named: Any) -> None:
        written(*arguments, **named)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, write, killed_after)
        with pytest.raises(Killed):
            run.log_model(trained)
    again = begin_keeping("a")
    assert again.id == run.id
    again.log_points(WORSE_LATER)
    again.log_model(trained)
    model = model_of(again)
    assert (str(model.status), scores_of(model)) == ("READY", ITS_SCORES)
    assert steps(again, "validation_psnr") == [4, 8]
    assert steps(again, "kept_psnr") == [4]


@pytest.mark.usefixtures("database")
def test_the_model_of_a_training_without_a_validation_has_no_scores_of_one(trained: Path) -> None:
    run = begin("a")
    run.log_points(points(4, 8))
    run.log_model(trained)
    assert scores_of(model_of(run)) == []
    assert (model_of(run).params or {})["step"] == "8"


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
