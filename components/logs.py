"""Logging: one line an event, ours from INFO on, the libraries' from WARNING on."""

import logging
import sys
import time

_OURS = ("components", "pipelines", "__main__")

log = logging.getLogger(__name__)


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
    """Tell whether a person watches, so that bars may be drawn."""
    return sys.stdout.isatty() and sys.stderr.isatty()


class Progress:
    """Log how far a long piece of work is, at most one line in `every_s` seconds."""

    def __init__(self, name: str, unit: str, total: int, *, every_s: float = 10.0) -> None:
        self.name, self.unit, self.total, self.every_s = name, unit, total, every_s
        self.done = 0
        self._logged_at = time.monotonic()
        self._first: tuple[int, float] | None = None  # the start of workers is no part of the rate

    def advance(self, count: int = 1) -> None:
        self.done += count
        now = time.monotonic()
        if self._first is None:
            self._first = (self.done, now)
        if now - self._logged_at >= self.every_s:
            self._logged_at = now
            log.info(
                "%s: %d of %d %s%s", self.name, self.done, self.total, self.unit, self._rate(now)
            )

    def _rate(self, now: float) -> str:
        done, since = self._first or (0, now)
        if self.done == done or now == since:
            return ""
        rate = (self.done - done) / (now - since)
        return f", {rate:.3g}/s, {(self.total - self.done) / rate:.0f} s left"
