"""Logging: one line per event, ours from INFO up, the libraries' from WARNING up."""

import logging
import sys
from pathlib import PurePath

from components.console import printable

_OURS = ("components", "pipelines", "__main__")


def configure() -> None:
    """Send log lines to stderr; called once, by an entry point."""
    root = logging.getLogger()
    if not root.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(_OneLine("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
        root.addHandler(handler)
    root.setLevel(logging.WARNING)
    for name in _OURS:
        logging.getLogger(name).setLevel(logging.INFO)
    # diffusers imports it, and it misses a kernel that nothing here uses.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    logging.captureWarnings(True)  # a warning is a line like any other


def on_terminal() -> bool:
    """Return whether output goes to a terminal, where bars may be drawn."""
    return sys.stdout.isatty() and sys.stderr.isatty()


class _OneLine(logging.Formatter):
    """Escapes what is put into our messages: a name with a newline would break the line."""

    def format(self, record: logging.LogRecord) -> str:
        if record.name.partition(".")[0] in _OURS and isinstance(record.args, tuple):
            record = logging.makeLogRecord(record.__dict__)
            record.args = tuple(map(_escaped, record.args or ()))
        return super().format(record)


def _escaped(value: object) -> object:
    return printable(value) if isinstance(value, str | PurePath | Exception) else value
