import logging

import pytest

from components import logs


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
