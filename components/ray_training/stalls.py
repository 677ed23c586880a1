"""Which workers of a training stand still, and where: each tells the driver, which looks at all.

A worker that hangs makes the others wait for it, all without a word. How far each has come tells
them apart: those that wait have come further.
"""

import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from types import FrameType
from typing import Any, NamedTuple

from components.lineage import ROOT
from components.training.pulse import Pulse

log = logging.getLogger(__name__)

_NAMED_AFTER = 1 / 6  # of the limit
_SIGNS = 60  # within the limit


class Sign(NamedTuple):
    """What a worker says of itself now and then."""

    rank: int
    node: str  # its address
    number: int  # how far it has come: see `Mark`
    doing: str
    still_s: float  # since it began that
    where: str
    worker: Any  # the actor


@contextmanager
def signs(
    pulse: Pulse, limit_s: float, send: Callable[[int, str, float, str], None]
) -> Iterator[None]:
    """Send number, words, seconds and place of a pulse during the block, from another thread."""
    is_over = Event()

    def tell() -> None:
        while not is_over.wait(limit_s / _SIGNS):
            number, doing, since = pulse.last
            send(number, doing, time.monotonic() - since, where(pulse.thread))

    Thread(target=tell, daemon=True, name="signs of a training").start()
    try:
        yield
    finally:
        is_over.set()


def where(thread: int) -> str:
    """Return the line of ours where a thread is, and in which line of others, if it is in one."""
    innermost = frame = sys._current_frames().get(thread)
    while frame is not None and not _is_ours(frame):
        frame = frame.f_back
    if innermost is None:
        return "an unknown place"
    if frame is None or frame is innermost:
        return _line(innermost)
    return f"{_line(frame)}, in {_line(innermost)}"


def _is_ours(frame: FrameType) -> bool:
    file = Path(frame.f_code.co_filename)
    return file.is_relative_to(ROOT) and "site-packages" not in file.parts


def _line(frame: FrameType) -> str:
    file = Path(frame.f_code.co_filename)
    shown = file.relative_to(ROOT) if _is_ours(frame) else Path(*file.parts[-2:])
    return f"{shown}:{frame.f_lineno} ({frame.f_code.co_name})"


class Stalls:
    """Watches one attempt: names the workers that are behind when all stand still, and ends them.

    Each step needs all workers, so while one of them makes progress, none hangs for long.
    """

    def __init__(self, limit_s: float, end: Callable[[Any], None]) -> None:
        self.ended = ""  # which workers were ended and why, if some were
        self._limit_s, self._end = limit_s, end
        self._signs: dict[int, Sign] = {}
        self._heard_at: dict[int, float] = {}
        self._has_named = False

    def hear(self, sign: Sign) -> None:
        self._signs[sign.rank] = sign
        self._heard_at[sign.rank] = time.monotonic()

    def look(self) -> None:
        """Name or end the workers that are behind, if it is time. To be called all the time."""
        now = time.monotonic()
        # One that is silent, since nothing in its process can run, gets older as well.
        still_s = {
            rank: sign.still_s + now - self._heard_at[rank] for rank, sign in self._signs.items()
        }
        least_s = min(still_s.values(), default=0.0)
        self._has_named &= least_s >= _NAMED_AFTER * self._limit_s
        if self.ended or least_s < _NAMED_AFTER * self._limit_s:
            return
        fewest = min(sign.number for sign in self._signs.values())
        behind = [sign for sign in self._signs.values() if sign.number == fewest]
        if least_s >= self._limit_s:
            self.ended = "; ".join(_told(sign, "which made", still_s) for sign in behind)
            for sign in behind:
                self._end(sign.worker)
        elif not self._has_named:
            self._has_named = True
            log.warning(
                "%s; after %.0f s of that (stall_limit_s), the training goes back to its last "
                "checkpoint",
                "; ".join(_told(sign, "has made", still_s) for sign in behind),
                self._limit_s,
            )


def _told(sign: Sign, made: str, still_s: Mapping[int, float]) -> str:
    return (
        f"worker {sign.rank} on node {sign.node} {made} no progress for "
        f"{still_s[sign.rank]:.0f} s: {sign.doing}, at {sign.where}"
    )
