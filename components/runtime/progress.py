"""How far a piece of work is: a bar where a person watches, a line now and then in a log."""

import logging
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from components.runtime import logs

if TYPE_CHECKING:
    import rich.progress

log = logging.getLogger(__name__)


class TrainingProgress:
    """Show steps, images/s, loss and the time left, as the points of the history come in."""

    def __init__(self, name: str, num_steps: int, *, every_s: float = 20.0) -> None:
        self._name, self._num_steps, self._every_s = name, num_steps, every_s
        self._logged_at = time.monotonic()
        self._first: tuple[float, float] | None = None  # step and time of the first point
        self._bar = _Bar(name, num_steps) if logs.on_terminal() else None

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

    def show(self, step: float, loss: float, images_per_s: float) -> None:
        """Take note of a point of the history."""
        now = time.monotonic()
        if self._first is None or step < self._first[0]:
            self._first = (step, now)
        left = self._time_left(step, now)
        told = f"loss {loss:.4g}, {images_per_s:.3g} images/s"
        if self._bar is not None:
            self._bar.show(step, told, left)
        elif now - self._logged_at >= self._every_s or step == self._num_steps:
            self._logged_at = now
            rest = "" if left is None else f", {_minutes(left)} left"
            log.info("%s: step %d of %d, %s%s", self._name, step, self._num_steps, told, rest)

    def _time_left(self, step: float, now: float) -> float | None:
        first, since = self._first or (step, now)
        if step == first or step == self._num_steps:
            return None
        return (now - since) / (step - first) * (self._num_steps - step)


class WorkProgress:
    """Show how many of a known number of things are done, and the time left."""

    def __init__(self, name: str, unit: str, total: int) -> None:
        self._lines = logs.Progress(name, unit, total)
        self._bar: rich.progress.Progress | None = None
        if logs.on_terminal():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

            self._bar = Progress(
                "{task.description}",
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._bar.add_task(name, total=total)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
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
        """Take note that one more is done."""
        if self._bar is not None:
            self._bar.advance(self._bar.task_ids[0])
        else:
            self._lines.advance()


class _Bar:
    """One line of a terminal, drawn again and again."""

    def __init__(self, name: str, num_steps: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[told]}"),
            console=Console(stderr=True),
        )
        self._task: rich.progress.TaskID = self._progress.add_task(
            name, total=num_steps, told="starting"
        )
        self._progress.start()

    def show(self, step: float, told: str, left: float | None) -> None:
        rest = "" if left is None else f", {_minutes(left)} left"
        self._progress.update(self._task, completed=step, told=f"{told}{rest}")

    def stop(self) -> None:
        self._progress.stop()


def _minutes(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
