from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

from components.progress import Progress
from components.ray_training.training_run import Recorder, Training, _copy, _replace, _resume
from components.ray_training.worker import News, Picture
from components.storage import Storage
from components.tracking.runs import TrainingRun


def point(step: int, loss: float = 0.5) -> dict[str, float]:
    return {"step": step, "loss": loss, "images_per_s": 10.0}


def test_points_are_logged_when_a_checkpoint_covers_them_and_never_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tracked = TrainingRun.begin("abc", name="train@small", params={})

    def logged() -> list[tuple[int, float]]:
        client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
        history = client.get_metric_history(tracked.id, "loss")
        return [(metric.step, metric.value) for metric in history]

    with Progress("train@small", "steps", 40) as progress:
        recorder = Recorder(tracked, progress)
        recorder.listen(News([point(4)]))
        recorder.listen(News([point(8)]))
        assert logged() == []
        recorder.listen(News(covered_step=8))
        recorder.listen(News([point(12, loss=0.9)]))
        assert logged() == [(4, 0.5), (8, 0.5)]
        # A worker is lost: the next one goes on after step 8, and its step 12 comes out otherwise.
        recorder.listen(News([point(4), point(8)]))
        recorder.listen(News([point(12, loss=0.7)]))
        recorder.listen(News(covered_step=16))  # overtakes the point of step 16
        recorder.listen(News([point(16)]))
    assert logged() == [(4, 0.5), (8, 0.5), (12, 0.7), (16, 0.5)]


def test_a_picture_is_logged_when_a_checkpoint_covers_it_and_the_rest_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tracked = TrainingRun.begin("abc", name="train@small", params={})
    stored = tmp_path / "mlartifacts" / tracked.id / "artifacts" / "validation"

    def logged() -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in stored.glob("*")}

    with Progress("train@small", "steps", 40) as progress:
        recorder = Recorder(tracked, progress)
        recorder.listen(News([point(8)], [Picture(8, b"lost with its worker")]))
        assert logged() == {}
        recorder.listen(News([point(8)], [Picture(8, b"8")]))
        recorder.listen(News(covered_step=8))
        recorder.listen(News(pictures=[Picture(8, b"8")]))  # of the checkpoint, after a resume
        recorder.listen(News([point(12)], [Picture(12, b"12")]))
        assert logged() == {"step-0000008.png": b"8"}
        recorder.finish()
    assert logged() == {"step-0000008.png": b"8", "step-0000012.png": b"12"}


def test_what_decides_the_result_decides_the_fingerprint() -> None:
    training = Training(
        stage="train@sd21-sdfm",
        module="components.training.loop",
        params={"seed": 1},
        inputs={"features": "1a2b"},
        workers=2,
        num_steps=10,
    )
    others = [
        replace(training, params={"seed": 2}),
        replace(training, inputs={"features": "9c0d"}),
        replace(training, workers=3),
        replace(training, workers=(1, 2)),
        replace(training, workers=(1, 2), elastic_batch="per_worker"),
        replace(training, stage="train@qwen-sdfm"),
    ]
    fingerprints = {training.fingerprint, *(other.fingerprint for other in others)}
    assert len(fingerprints) == 7
    assert replace(training).fingerprint == training.fingerprint


def test_an_unfinished_training_of_another_fingerprint_is_discarded(tmp_path: Path) -> None:
    out = tmp_path / "models" / "sd21-sdfm"
    first = _resume(out, "1a2b")
    (first / "checkpoints").mkdir()
    assert (_resume(out, "1a2b") / "checkpoints").exists()
    second = _resume(out, "9c0d")
    assert not first.exists()
    assert second.exists()


def test_a_result_replaces_an_older_one_as_a_whole(tmp_path: Path) -> None:
    out = tmp_path / "models" / "sd21-sdfm"
    out.mkdir(parents=True)
    (out / "old").touch()
    trained = _resume(out, "1a2b") / "trained"
    trained.mkdir()
    (trained / "new").touch()
    _replace(out, trained)
    assert [file.name for file in out.iterdir()] == ["new"]
    assert [file.name for file in out.parent.iterdir()] == ["sd21-sdfm"]


def test_a_result_is_linked_from_its_checkpoint_and_writes_into_no_older_file(
    tmp_path: Path,
) -> None:
    """The older one is of a training that ended after MLflow had linked to it."""
    checkpoint, trained = tmp_path / "checkpoint" / "unet", tmp_path / "trained" / "unet"
    for folder, content in ((checkpoint, b"new"), (trained, b"old")):
        folder.mkdir(parents=True)
        (folder / "weights").write_bytes(content)
    (tmp_path / "artifact").hardlink_to(trained / "weights")
    _copy(Storage(str(checkpoint.parent)), trained.parent)
    assert (trained / "weights").samefile(checkpoint / "weights")
    assert (tmp_path / "artifact").read_bytes() == b"old"
