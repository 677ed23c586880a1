"""Two models' metrics files side by side: whether they can be compared, and their scores by face.

F faces. The files are those of `components.reporting.comparison`: the scores of every test face,
and the pairs that they belong to.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from components.metrics.protocol import told

Scores = Mapping[str, Any]  # the content of a metrics file
Row = tuple[str, int]  # a face's id, and which of its degradations


def other_faces(candidate: Scores, champion: Scores) -> str | None:
    """Return how the test faces of two models differ, if they do."""
    one, other = (scores["protocol"].get("pairs") for scores in (candidate, champion))
    if one != other:
        return f"not comparable: it was scored on the pairs {one}, the champion on {other}"
    faces, known = _faces(candidate), _faces(champion)
    if faces != known:
        strange = sorted(set(faces) ^ set(known))
        return (
            f"not comparable: {len(faces)} test faces, the champion had {len(known)}; "
            f"only one of them has {strange[0]}"
        )
    return None


def not_comparable(
    metrics: Sequence[str], candidate: Scores, reference: Scores, role: str
) -> Iterator[str]:
    both = (candidate, reference)
    for metric in metrics:
        for whose, scores in zip(("the candidate", "the champion"), both, strict=True):
            if metric not in scores["metrics"]:
                why = scores["unavailable"].get(metric, "'evaluate.metrics' does not name it")
                yield f"{metric} was not measured for {whose}: {why}"
                break
        else:
            one, other = (told(scores["metrics"][metric]["protocol"]) for scores in both)
            if one != other:
                yield f"{metric} was measured as '{one}', for the champion as '{other}'"
            elif not candidate["faces"]:
                yield "the candidate has no face"
            elif is_set(candidate, metric):
                yield from _without_interval(metric, candidate, "the candidate", "restored")
                yield from _without_interval(metric, reference, "what it is compared with", role)
            else:
                yield from _without_scores(metric, candidate, "the candidate", "restored")
                yield from _without_scores(metric, reference, "what it is compared with", role)


def _without_interval(metric: str, scores: Scores, whose: str, role: str) -> Iterator[str]:
    interval = scores["metrics"][metric].get(role)
    if interval is None or interval["low"] is None:
        yield f"{metric} of {whose} has no interval"


def _without_scores(metric: str, scores: Scores, whose: str, role: str) -> Iterator[str]:
    without = [face for face in scores["faces"] if face["scores"][metric][role] is None]
    if without:
        yield (
            f"{len(without)} of {len(scores['faces'])} results of {whose} have no {metric}, the "
            f"first {without[0]['face_id']}: see 'failures' in its metrics file"
        )


def is_set(scores: Scores, metric: str) -> bool:
    """Return whether a metric is a number of a whole set, which no single face has."""
    return bool(scores["faces"]) and metric not in scores["faces"][0]["scores"]


def sign(scores: Scores, metric: str) -> float:
    """Return 1 if higher is better in a metric, -1 if lower is."""
    return 1.0 if scores["metrics"][metric]["better"] == "higher" else -1.0


def _faces(scores: Scores) -> list[tuple[str, int]]:
    return sorted((face["face_id"], face["variant"]) for face in scores["faces"])


def by_face(
    scores: Scores, metric: str, role: str, rows: Collection[Row] | None = None
) -> npt.NDArray[np.float64]:
    """Return one score per face (F,), by face id: the mean over its variants.

    `rows` limits it to these degradations of faces.
    """
    variants: dict[str, list[float]] = {}
    for face in scores["faces"]:
        if rows is None or (face["face_id"], face["variant"]) in rows:
            variants.setdefault(face["face_id"], []).append(face["scores"][metric][role])
    return np.array([np.mean(variants[face_id]) for face_id in sorted(variants)])


def angles_of(scores: Scores, metric: str) -> list[float]:
    """Return the angle of each result that has one: a protocol may leave some out."""
    angles = (face["scores"].get(metric, {}).get("restored") for face in scores["faces"])
    return [angle for angle in angles if angle is not None]
