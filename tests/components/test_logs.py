import logging

import pytest

from components import logs
from components.logs import Progress


@pytest.fixture
def _restored_logging():
    names = ["", "components", "pipelines", "__main__"]
    levels = {name: logging.getLogger(name).level for name in names}
    handlers = list(logging.getLogger().handlers)
    yield
    logging.captureWarnings(False)
    logging.getLogger().handlers[:] = handlers
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@pytest.mark.usefixtures("_restored_logging")
def test_our_events_are_logged_and_the_libraries_warnings_only():
    logs.configure()

    assert logging.getLogger("components.tables").isEnabledFor(logging.INFO)
    assert logging.getLogger("pipelines.faces").isEnabledFor(logging.INFO)
    assert not logging.getLogger("some.library").isEnabledFor(logging.INFO)
    assert logging.getLogger("some.library").isEnabledFor(logging.WARNING)


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def test_progress_is_a_line_in_ten_seconds_at_most_with_rate_and_time_left(clock, caplog):
    caplog.set_level(logging.INFO, "components")
    progress = Progress("degrade", "shards", 100)
    for second in range(7, 32):  # the first is done after 7 s, then one a second
        clock[0] = float(second)
        progress.advance()

    assert caplog.messages == [
        "degrade: 4 of 100 shards, 1/s, 96 s left",
        "degrade: 14 of 100 shards, 1/s, 86 s left",
        "degrade: 24 of 100 shards, 1/s, 76 s left",
    ]


def test_progress_says_no_rate_before_it_knows_one(clock, caplog):
    caplog.set_level(logging.INFO, "components")
    progress = Progress("features", "shards", 3)
    clock[0] = 60.0
    progress.advance()

    assert caplog.messages == ["features: 1 of 3 shards"]
