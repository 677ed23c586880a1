"""How far a piece of work is: a bar where a person watches, a line now and then in a log."""

import logging
import time
from types import TracebackType
from typing import Self

from components import logs

log = logging.getLogger(__name__)


class _Shown:
    """Has a bar where a person watches; the bar ends with the block."""

    def __init__(self, name: str, total: int) -> None:
        self._bar = _Bar(name, total) if logs.on_terminal() else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


class TrainingProgress(_Shown):
    """Show steps, images/s, loss and the time left, as the points of the history come in."""

    def __init__(self, name: str, num_steps: int, *, every_s: float = 20.0) -> None:
        super().__init__(name, num_steps)
        self._name, self._num_steps, self._every_s = name, num_steps, every_s
        self._logged_at = time.monotonic()
        self._first: tuple[float, float] | None = None  # step and time of the first point

    def show(self, step: float, loss: float, images_per_s: float) -> None:
        """Take note of a point of the history."""
        now = time.monotonic()
        if self._first is None or step < self._first[0]:
            self._first = (step, now)
        left = self._time_left(step, now)
        told = f"loss {loss:.4g}, {images_per_s:.3g} images/s"
        told += "" if left is None else f", {_minutes(left)} left"
        if self._bar is not None:
            self._bar.show(step, told)
        elif now - self._logged_at >= self._every_s or step == self._num_steps:
            self._logged_at = now
            log.info("%s: step %d of %d, %s", self._name, step, self._num_steps, told)

    def _time_left(self, step: float, now: float) -> float | None:
        first, since = self._first or (step, now)
        if step == first or step == self._num_steps:
            return None
        return (now - since) / (step - first) * (self._num_steps - step)


class WorkProgress(_Shown):
    """Show how many of a known number of things are done, and the time left."""

    def __init__(self, name: str, unit: str, total: int) -> None:
        super().__init__(name, total)
        self._lines = logs.Progress(name, unit, total)
        self._done = 0

    def advance(self) -> None:
        """Take note that one more is done."""
        self._done += 1
        if self._bar is not None:
            each = (time.monotonic() - self._bar.began) / self._done
            left = each * (self._lines.total - self._done)
            self._bar.show(self._done, f"{_minutes(left)} left")
        else:
            self._lines.advance()


class _Bar:
    """One line of a terminal, drawn again and again."""

    def __init__(self, name: str, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[told]}"),
            console=Console(stderr=True),
        )
        self._task = self._progress.add_task(name, total=total, told="starting")
        self._progress.start()
        self.began = time.monotonic()

    def show(self, done: float, told: str) -> None:
        self._progress.update(self._task, completed=done, told=told)

    def stop(self) -> None:
        self._progress.stop()


def _minutes(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
