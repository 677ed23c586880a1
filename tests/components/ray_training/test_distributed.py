import ctypes
import logging
import os
import re
import shutil
import signal
import time
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import pytest

from components.losses import perceptual
from components.params import Compute
from components.ray_training import attempt, distributed
from components.ray_training.distributed import TrainingError
from components.ray_training.worker import News
from components.storage import Storage
from components.training.seat import Seat

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_session")]


def fit(
    worker: distributed.Worker,
    folder: Path,
    *,
    max_failures: int = 3,
    stall_limit_s: float = 1800,
    **config: Any,
) -> tuple[Storage, list[News]]:
    news: list[News] = []
    checkpoint = distributed.fit(
        worker,
        config,
        name="small",
        storage=Storage(str(folder)),
        workers=1,
        compute=Compute(cpus=0.5, stall_limit_s=stall_limit_s),
        listen=news.append,
        max_failures=max_failures,
    )
    return checkpoint, news


def count(config: dict[str, Any], seat: Seat) -> None:
    """Count to four, with a checkpoint after each; die the first time while three is stored."""
    start = int((seat.resume_from / "number").read_text()) if seat.resume_from else 0
    Path(config["marks"], f"from-{start}-in-{Path.cwd().name}").touch()
    for number in range(start + 1, 5):
        folder = Path(config["marks"], f"{number}-{os.getpid()}")
        folder.mkdir()
        (folder / "number").write_text(str(number))
        is_last = number == 3 and start == 0
        if is_last:
            with (folder / "large").open("wb") as file:
                file.truncate(2**29)  # it takes no room here, and a while to be stored
        seat.report([{"step": number}], folder)
        if is_last:
            os.kill(os.getpid(), signal.SIGKILL)


def test_a_lost_worker_is_replaced_and_goes_on_from_the_last_checkpoint(tmp_path: Path) -> None:
    checkpoint, news = fit(count, tmp_path / "storage", marks=str(tmp_path))
    assert checkpoint.read("number") == b"4"
    # Three was on its way, and so two was there.
    assert {file.name.split("-")[1] for file in tmp_path.glob("from-*")} == {"0", "2"}
    assert all(file.name.endswith(Path.cwd().name) for file in tmp_path.glob("from-*"))
    covered = [item.covered_step for item in news if item.covered_step is not None]
    assert covered == [1, 2, 3, 4]
    assert [point["step"] for item in news for point in item.points] == [1, 2, 3, 3, 4]


def need_lpips(config: dict[str, Any], seat: Seat) -> None:
    """Load a real loss, from a place where its files are missing."""
    del seat
    Path(config["marks"], str(os.getpid())).touch()
    os.environ["TORCH_HOME"] = config["marks"]
    perceptual.PERCEPTUAL["lpips"]()


def test_a_mistake_ends_the_training_at_once_with_its_message(tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    said = "worker 0: FileNotFoundError: the perceptual loss 'lpips-vgg' lacks"
    with pytest.raises(TrainingError, match=said):
        fit(need_lpips, tmp_path / "storage", marks=str(marks))
    assert len(list(marks.iterdir())) == 1


@pytest.mark.parametrize(
    ("error", "how"),
    [
        (FileNotFoundError("the network lacks vgg16.pth"), "failed"),
        (PermissionError(13, "Permission denied", "backbone.pth"), "failed"),
        (UnpicklingError("Weights only load failed"), "failed"),
        (ValueError("size = 3"), "failed"),
        (ConnectionResetError(104, "Connection reset by peer"), "lost"),
        (OSError(5, "Input/output error"), "lost"),
        (RuntimeError("NCCL: the peer is gone"), "lost"),
    ],
)
def test_what_a_person_must_mend_is_a_mistake_and_what_passes_is_a_loss(
    error: Exception, how: str
) -> None:
    end = attempt._about({0: RuntimeError("the other worker is gone"), 1: error})
    assert end.how == how
    assert how == "lost" or str(error) in end.said


def be_lost(config: dict[str, Any], seat: Seat) -> None:
    """Lose the storage the first time; hang the second, with no thread of Python to say so."""
    seat.pulse.beat("reading rows for step 1")
    marks = Path(config["marks"])
    (marks / str(os.getpid())).mkdir()
    if len(list(marks.iterdir())) == 1:
        shutil.rmtree(marks.parent / "storage")
        seat.report([{"step": 1}], marks / str(os.getpid()))
        time.sleep(1000)  # until the error of the thread that stores it
    time.sleep(1)  # it has given a sign by now
    ctypes.PyDLL(None).sleep(1000)  # unlike `time.sleep`, this keeps the interpreter to itself


def test_a_training_that_only_loses_workers_ends_after_some(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    marks = tmp_path / "marks"
    marks.mkdir()
    told = (
        r"worker 0 on node [\d.]+ {} made no progress for {} s: reading rows for step 1, at "
        r"tests/components/ray_training/test_distributed.py:\d+ \(be_lost\)"
    )
    lost = "lost 2 times with no checkpoint between: " + told.format("which", r"1\d")
    with pytest.raises(TrainingError, match=lost):
        fit(be_lost, tmp_path / "storage", max_failures=1, stall_limit_s=12, marks=str(marks))
    assert len(list(marks.iterdir())) == 2
    said = "\n".join(record.getMessage() for record in caplog.records)
    assert re.search("lost worker 0: .*storage.*: going on from the last checkpoint", said)
    assert re.search(told.format("has", r"[2-9]"), said)


def test_more_workers_than_the_machine_has_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1000 workers need 1 CPUs each, and Ray has room for"):
        distributed.fit(
            count,
            {},
            name="x",
            storage=Storage(str(tmp_path)),
            workers=1000,
            compute=Compute(),
            listen=lambda _: None,
        )


def test_ctrl_c_ends_a_training_that_waits_for_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "a cluster, which may grow")
    heard: list[News] = []

    def interrupt(news: News) -> None:
        heard.append(news)
        if len(heard) == 6:  # at least every half second: the controller waits by now
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        distributed.fit(
            count,
            {},
            name="x",
            storage=Storage(str(tmp_path)),
            workers=1000,
            compute=Compute(),
            listen=interrupt,
        )
    assert len(heard) < 20
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_list_of_checkpoints_that_was_cut_short_is_forgotten(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint_manager_snapshot.json"
    file.write_text('{"checkpoint_results": [')
    distributed._drop_broken_snapshot(Storage(str(tmp_path)))
    assert not file.exists()
    file.write_text("{}")
    distributed._drop_broken_snapshot(Storage(str(tmp_path)))
    assert file.exists()
