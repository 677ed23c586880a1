import logging
import sys

import pytest

from components.progress import Progress


@pytest.fixture(autouse=True)
def info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="components")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def test_a_log_gets_at_most_one_line_in_ten_seconds_and_one_at_the_end(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    progress = Progress("degrade", "shards", 100)
    for second in range(7, 107):  # the first is done after 7 s, then one a second
        clock[0] = float(second)
        progress.advance()
    assert caplog.messages[:3] == [
        "degrade: 4 of 100 shards, 1/s, 1:36 left",
        "degrade: 14 of 100 shards, 1/s, 1:26 left",
        "degrade: 24 of 100 shards, 1/s, 1:16 left",
    ]
    assert caplog.messages[-1] == "degrade: 100 of 100 shards, 1/s"
    assert len(caplog.messages) == 11


def test_a_line_has_no_rate_before_two_points_are_known(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    progress = Progress("features", "shards", 3)
    clock[0] = 60.0
    progress.advance()
    assert caplog.messages == ["features: 1 of 3 shards"]


def test_a_training_shows_its_loss_and_starts_again_after_a_step_back(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    progress = Progress("train@sd21-sdfm", "steps", 100)
    for second, step in [(30, 10.0), (60, 20.0), (90, 5.0), (100, 15.0)]:
        clock[0] = float(second)
        progress.show(step, "loss 0.1")
    assert caplog.messages == [
        "train@sd21-sdfm: 10 of 100 steps, loss 0.1",
        "train@sd21-sdfm: 20 of 100 steps, loss 0.1, 4:00 left",
        "train@sd21-sdfm: 5 of 100 steps, loss 0.1",
        "train@sd21-sdfm: 15 of 100 steps, loss 0.1, 1:25 left",
    ]


def test_a_terminal_gets_a_bar_and_no_lines(
    clock: list[float],
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Progress("restore", "files", 2) as progress:
        for second in (30.0, 60.0):
            clock[0] = second
            progress.advance()
    assert caplog.messages == []
    assert "2/2" in capsys.readouterr().err
