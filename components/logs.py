"""Logging: one line per event, ours from INFO up, the libraries' from WARNING up."""

import logging
import sys

_OURS = ("components", "pipelines", "__main__")


def configure() -> None:
    """Send log lines to stderr; called once, by an entry point."""
    root = logging.getLogger()
    if not root.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
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
