"""The faces that a restoration made worse the most, with their pictures, in constant memory."""

import heapq
import math
from collections.abc import Iterable

from components.metrics.catalogue import CATALOGUE
from components.reporting.comparison import Compared


class Worst:
    """Keep the `number` faces that lost the most against the degraded ones.

    The loss is that of the first of `metrics` that scores single faces. Of equal losses, the first
    face seen stays: the worst of several parts of a set are the same as those of the whole set, if
    the parts are added in their order.
    """

    def __init__(self, metrics: Iterable[str], number: int) -> None:
        self._metric = next((name for name in metrics if not CATALOGUE[name].is_set), None)
        is_lower = self._metric is not None and CATALOGUE[self._metric].direction == "lower"
        self._sign = -1.0 if is_lower else 1.0
        self._number, self._seen = number, 0
        self._kept: list[tuple[float, int, Compared]] = []

    def add(self, faces: Iterable[Compared]) -> None:
        """Keep those faces that are worse than the degraded ones, and among the worst so far."""
        for one in faces:
            self._seen += 1
            loss = self._loss(one)
            if not loss > 0:  # nor if it has no score
                continue
            heapq.heappush(self._kept, (loss, -self._seen, one))
            if len(self._kept) > self._number:
                heapq.heappop(self._kept)

    def faces(self) -> list[Compared]:
        """Return them, the worst first."""
        return [one for *_, one in sorted(self._kept, key=lambda kept: kept[:2], reverse=True)]

    def _loss(self, one: Compared) -> float:
        scores = {} if self._metric is None else one.scores[self._metric]
        restored, degraded = (scores.get(role, math.nan) for role in ("restored", "degraded"))
        return self._sign * (degraded - restored)
