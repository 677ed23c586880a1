"""Score a batch of pictures: the same function wherever faces are measured, on any worker.

A picture that is no result (`reason_against`) has no score: NaN, and its reason beside it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from components import images
from components.images import Image
from components.metrics.catalogue import Metric

TRUTH = "hq"
Scores = dict[str, dict[str, float]]  # metric -> role -> score
Features = dict[str, dict[str, npt.NDArray[np.float32]]]  # metric -> role -> features of one face
Failures = dict[str, str]  # role -> why it has no scores

_MISSING = "missing"


@dataclass(frozen=True)
class FaceScores:
    """The scores of one degradation of one face. Sets' metrics have features, (2048,) float32."""

    face_id: str
    variant: int
    scores: Scores
    features: Features = field(default_factory=dict)
    failures: Failures = field(default_factory=dict)


def reason_against(picture: Image) -> str | None:
    """Return why a picture is no restored face: it is black, or of one colour."""
    low, high = picture.min(axis=(0, 1)), picture.max(axis=(0, 1))
    if (low != high).any():
        return None
    return "black" if not high.any() else f"of one colour, {tuple(map(int, high))}"


def score(
    faces: Sequence[tuple[str, int]],
    pictures: Mapping[str, Sequence[Image | None]],
    hq: Sequence[Image] | None,
    metrics: Mapping[str, Metric],
    failures: Sequence[Failures] | None = None,
) -> list[FaceScores]:
    """Score each role's pictures of a batch of faces, (id, variant), against the true ones.

    None stands for a picture that is not there; `failures` says why, per face. Without true faces,
    metrics that need them are left out, and so is the set of true faces.
    """
    whys: list[Failures] = [dict(one) for one in failures or [{}] * len(faces)]
    rows = [FaceScores(*face, {}, {}, why) for face, why in zip(faces, whys, strict=True)]
    truth_B3HW = None if hq is None else images.to_tensor(hq)
    usable = {
        name: metric
        for name, metric in metrics.items()
        if truth_B3HW is not None or not metric.entry.needs_truth
    }
    for role, shown in pictures.items():
        _score_role(rows, role, shown, truth_B3HW, usable)
    if truth_B3HW is not None:
        for name, metric in usable.items():
            if metric.entry.is_set and metric.how.reference is None:
                _put(rows, range(len(rows)), name, TRUTH, metric, metric(truth_B3HW, None))
    return rows


def _score_role(
    rows: Sequence[FaceScores],
    role: str,
    shown: Sequence[Image | None],
    truth_B3HW: Tensor | None,
    metrics: Mapping[str, Metric],
) -> None:
    for name, metric in metrics.items():
        if not metric.entry.is_set:
            for row in rows:
                row.scores.setdefault(name, {})[role] = float("nan")
    given = [
        (place, picture)
        for place, (picture, row) in enumerate(zip(shown, rows, strict=True))
        if _is_result(picture, row.failures, role) and picture is not None
    ]
    if not given:
        return
    places = [place for place, _ in given]
    pictures_B3HW = images.to_tensor([picture for _, picture in given])
    # Metrics know the true faces again by this object, and embed them once for all roles.
    if truth_B3HW is not None and len(places) < len(rows):
        truth_B3HW = truth_B3HW[places]
    for name, metric in metrics.items():
        _put(rows, places, name, role, metric, metric(pictures_B3HW, truth_B3HW))


def _is_result(picture: Image | None, why: Failures, role: str) -> bool:
    """Return whether a picture can be scored; otherwise note why not."""
    if picture is None:
        why.setdefault(role, _MISSING)
    elif (reason := reason_against(picture)) is not None:
        why.setdefault(role, reason)
    return role not in why


def _put(
    rows: Sequence[FaceScores],
    places: Sequence[int],
    name: str,
    role: str,
    metric: Metric,
    values: npt.NDArray[np.floating[Any]],
) -> None:
    for place, value in zip(places, values, strict=True):
        if metric.entry.is_set:
            rows[place].features.setdefault(name, {})[role] = np.asarray(value, np.float32)
        else:
            rows[place].scores.setdefault(name, {})[role] = float(value)
