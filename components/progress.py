"""Show how far a piece of work is: a bar on a terminal, a line now and then in a log."""

import logging
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from components import logs

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

log = logging.getLogger(__name__)


class Progress:
    """Count what is done of a known total, and show it with the time left.

    In a `with` block on a terminal it is a bar. Anywhere else it is a line in the log, at most one
    in `every_s` seconds, and one at the end.
    """

    def __init__(self, name: str, unit: str, total: int, *, every_s: float = 10.0) -> None:
        self.name, self.unit, self.total, self.every_s = name, unit, total, every_s
        self._done = 0.0
        self._logged_at = time.monotonic()
        # The first count: how long the workers took to start is no part of the rate.
        self._first: tuple[float, float] | None = None
        self._bar: Bar | None = None

    def __enter__(self) -> Self:
        if logs.on_terminal():
            self._bar = _start_bar(self.name, self.total)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self) -> None:
        """Show that one more is done."""
        self.show(self._done + 1)

    def show(self, done: float, told: str = "") -> None:
        """Show that `done` of the total are done, and what else is `told` about them."""
        now = time.monotonic()
        if self._first is None or done < self._first[0]:  # it went back: a restart
            self._first = (done, now)
        self._done = done
        rate = self._rate(now)
        left = ""
        if rate and done < self.total:
            left = f"{_minutes((self.total - done) / rate)} left"
        told = told or (f"{rate:.3g}/s" if rate else "")
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done, told=_joined(told, left))
        elif now - self._logged_at >= self.every_s or done == self.total:
            self._logged_at = now
            count = f"{int(done)} of {self.total} {self.unit}"
            log.info("%s: %s", self.name, _joined(count, told, left))

    def _rate(self, now: float) -> float | None:
        done, since = self._first or (0, now)
        return (self._done - done) / (now - since) if self._done > done and now > since else None


def _start_bar(name: str, total: int) -> "Bar":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    bar = Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[told]}"),
        console=Console(stderr=True),
    )
    bar.add_task(name, total=total, told="starting")
    bar.start()
    return bar


def _joined(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


def _minutes(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
