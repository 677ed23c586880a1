"""The history of a training: what was measured at some of its steps, and the file that keeps it."""

import json
from collections.abc import Sequence

HISTORY = "history.json"
BEST_STEP = "best_step"  # in a point: the step whose model is the best so far
VALIDATION = "validation_"  # how the names of a validation's scores begin
SYSTEM = "system/"  # how the names of what a machine is used for begin, as in MLflow
# `step`, `loss` and its terms, `images_per_s`, ...: means over the steps since the last point.
HistoryPoint = dict[str, float]


def encode(points: Sequence[HistoryPoint]) -> bytes:
    """Write points as JSON, one per line."""
    lines = ",\n".join(json.dumps(point, allow_nan=False) for point in points)
    return f"[\n{lines}\n]\n".encode()


def decode(data: bytes) -> list[HistoryPoint]:
    """Read the points that `encode` wrote."""
    points: list[HistoryPoint] = json.loads(data)
    return points
