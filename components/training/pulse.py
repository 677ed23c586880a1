"""How far a process has come in its training: written by the training, read by who watches over it.

Without torch: who watches starts before it is imported.
"""

import threading
import time
from typing import NamedTuple


class Mark(NamedTuple):
    """What a process is doing; a rank that has come further than another has the larger number."""

    number: int
    doing: str  # a few words of a message
    since: float  # of `time.monotonic`


class Pulse:
    """The last mark of one process. Make it in the thread that trains."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.last = Mark(0, "starting", time.monotonic())

    def beat(self, doing: str, *, by: int = 1) -> None:
        """Say what begins now.

        Where ranks wait for each other, all must have the same number. So one that does less on the
        way than others counts it with `by`.
        """
        # One assignment: another thread never sees half a mark.
        self.last = Mark(self.last.number + by, doing, time.monotonic())
