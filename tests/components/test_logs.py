import logging
import os
from pathlib import Path

import pytest

from components import logs
from components.console import printable


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


@pytest.mark.usefixtures("_restored_logging")
def test_a_name_neither_breaks_a_line_nor_controls_a_terminal(capsys):
    logging.getLogger().handlers.clear()
    logs.configure()
    log = logging.getLogger("components.photographs")
    log.warning("%s failed after %.1f s: %s", Path("a\nb\x1b[2J.jpg"), 2, ValueError("c\rd"))
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith(r"WARNING a\nb\x1b[2J.jpg failed after 2.0 s: c\rd")


def test_only_what_cannot_be_printed_is_escaped():
    assert printable("Łódź 1931, the 2nd – 😀.jpg") == "Łódź 1931, the 2nd – 😀.jpg"
    assert printable("left\u202egpj.exe") == r"left\u202egpj.exe"  # which turns what follows
    assert printable(os.fsdecode(b"J\xf6rg\n.png")) == r"J\xf6rg\n.png"
    assert printable("a\nb\x07", keep="\n") == "a\nb\\x07"
