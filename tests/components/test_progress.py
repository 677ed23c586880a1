import logging

import pytest

from components.progress import TrainingProgress, WorkProgress


@pytest.fixture(autouse=True)
def info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="components")


def test_a_log_gets_a_line_now_and_then_and_one_at_the_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with TrainingProgress("train@sd21-sdfm", 100, every_s=60) as progress:
        for step in range(10, 101, 10):
            progress.show(step, loss=0.12345, images_per_s=31.26)
    assert caplog.messages == [
        "train@sd21-sdfm: step 100 of 100, loss 0.1235, 31.3 images/s",
    ]


def test_a_line_says_how_long_it_will_take(caplog: pytest.LogCaptureFixture) -> None:
    with TrainingProgress("train@sd21-sdfm", 100, every_s=0) as progress:
        progress.show(10, loss=1, images_per_s=1)
        progress.show(20, loss=1, images_per_s=1)
    assert caplog.messages[0].endswith("images/s")  # nothing to judge by yet
    assert caplog.messages[1].endswith("0:00 left")


def test_work_is_told_by_its_unit(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter(range(0, 100, 6))
    monkeypatch.setattr("time.monotonic", lambda: next(seconds))
    with WorkProgress("restore", "files", 4) as progress:
        for _ in range(4):
            progress.advance()
    assert caplog.messages == [
        "restore: 2 of 4 files, 0.167/s, 12 s left",
        "restore: 4 of 4 files, 0.167/s, 0 s left",
    ]
