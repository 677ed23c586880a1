"""How many requests a key may send in a minute."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

_WINDOW_S = 60.0


@dataclass(frozen=True)
class Allowance:
    """What a key may still send."""

    limit: int  # requests in any minute
    remaining: int
    reset_s: int  # until the oldest request of the last minute no longer counts
    is_allowed: bool  # the request that asked

    def headers(self) -> dict[str, str]:
        """Return the headers that tell a client."""
        return {
            "RateLimit-Policy": f"{self.limit};w={_WINDOW_S:.0f}",
            "RateLimit-Limit": str(self.limit),
            "RateLimit-Remaining": str(self.remaining),
            "RateLimit-Reset": str(self.reset_s),
        }


class Rates:
    """Counts the requests of each key in the last sixty seconds."""

    def __init__(self, per_minute: int, now: Callable[[], float] = time.monotonic) -> None:
        self._limit, self._now = per_minute, now
        self._sent: dict[str, deque[float]] = {}  # when, by owner; not more than the limit each

    def take(self, owner: str) -> Allowance:
        """Count a request of a key's owner, if it is allowed."""
        now = self._now()
        self._forget(now - _WINDOW_S)
        sent = self._sent.setdefault(owner, deque())
        is_allowed = len(sent) < self._limit
        if is_allowed:
            sent.append(now)
        reset_s = math.ceil(sent[0] + _WINDOW_S - now)
        return Allowance(self._limit, self._limit - len(sent), max(1, reset_s), is_allowed)

    def _forget(self, before: float) -> None:
        for owner, sent in list(self._sent.items()):
            while sent and sent[0] <= before:
                sent.popleft()
            if not sent:
                del self._sent[owner]
