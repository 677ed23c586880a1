"""Find faces that lie on their side or head down: turn the picture, and look again.

Detectors are trained on upright faces. In another one they find nothing, or landmarks that are off
by a quarter or half of a turn, at scores up to 0.9. Upright, the same face scores higher.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from components.faces import align
from components.faces.detection import (
    Box,
    Detection,
    Detector,
    from_left,
    grouped,
    not_overlapping,
)
from components.faces.landmarks import Landmarks
from components.faces.template import TEMPLATE, TEMPLATE_SIZE
from components.images import Image

MOST_ROLL_DEG = 55.0  # quarters of a turn leave a face at most 45 degrees from upright
OTHER_WAY_DEG = 45.0  # findings of one face that are turned further apart contradict each other
# Another way up is a rival if it scores nearly as well, or is that of most faces; then the face is
# looked at from near, each way up. The better one is right if it is better by CLEARLY, in the mean
# of both scores.
RIVAL, CLEARLY = 0.1, 0.02
UNUSUALLY = 0.05  # if it is not the way up of most faces; a picture with few is taken for upright
SURE = 0.6  # least score, the mean of both, of a face that lies another way than most do
SURE_MISFIT = 0.25  # and the most that its landmarks are off (`align.fit`)
# Four of five upright faces are off by less than 0.06. What is off by more than this must also have
# this share of the best score of those that lie as most do: a hand in which YuNet saw a face that
# lies had 0.16 and 0.71.
GOOD_MISFIT, AS_SURE = 0.12, 0.8
LOOK_SIZE = 256  # pixels of the aligned square in which the face is looked for again
# Largest mean distance of the landmarks found there from the template, in eye distances. Right ones
# are mostly below 0.2, profiles reach 0.4.
MAX_OFF = 0.4
_EYE_DISTANCE = float(np.linalg.norm(TEMPLATE[1] - TEMPLATE[0]))


class AnyWayUp:
    """A detector that finds each face once, whichever way up it is."""

    def __init__(self, upright: Detector) -> None:
        """Take a detector of upright faces; it is asked four times, and again for some faces."""
        self._upright = upright

    def detect(self, image: Image) -> list[Detection]:
        """Find the faces of a picture; a face whose way up is not clear has a doubt."""
        groups = grouped(one for turns in range(4) for one in self._turned(image, turns))
        usual = _usual_way([group[0] for group in groups])
        scores = [group[0].score for group in groups if _way(group[0]) == usual]
        best = max(scores, default=0.0)
        settled = (self._settle(image, group, usual, best) for group in groups)
        return from_left(not_overlapping(face for face in settled if face is not None))

    def _turned(self, image: Image, turns: int) -> Iterator[Detection]:
        """Find what is upright once the picture is turned to the left, by quarters of a turn."""
        height, width = image.shape[:2]
        for one in self._upright.detect(np.ascontiguousarray(np.rot90(image, turns))):
            if abs(one.roll_deg) > MOST_ROLL_DEG:  # another turn shows it better
                continue
            left, top, right, bottom = one.box
            corners = _turned_back(np.array([[left, top], [right, bottom]]), turns, width, height)
            box: Box = (*corners.min(axis=0).tolist(), *corners.max(axis=0).tolist())
            yield Detection(_turned_back(one.landmarks, turns, width, height), one.score, box)

    def _settle(
        self, image: Image, group: Sequence[Detection], usual: int, best_score: float
    ) -> Detection | None:
        """Choose among what was found of one face, best first; None: it is no face.

        `usual` is the way up of most faces, `best_score` the best one of those.
        """
        best = group[0]
        others = _other_ways(group)
        rivals = [one for one in others if one.score > best.score - RIVAL or _way(one) == usual]
        if not rivals and _way(best) == usual:
            return best
        looks = [(self._look(image, one), one) for one in (best, *rivals)]
        seen = [((look + one.score) / 2, one) for look, one in looks if look > 0]
        seen.sort(key=lambda pair: -pair[0])
        if not seen:
            return best._replace(doubt="it is not a clear face") if _way(best) == usual else None
        (first, face), *worse = seen
        if worse and first - worse[0][0] < (CLEARLY if _way(face) == usual else UNUSUALLY):
            likely = next((one for _, one in seen if _way(one) == usual), face)
            return likely._replace(doubt="it is not clear which way up it is")
        return face if _way(face) == usual or _is_clear(first, face, best_score) else None

    def _look(self, image: Image, found: Detection) -> float:
        """Return the score of a face in its aligned square; 0 if it is not there."""
        try:
            similarity = align.fit(found.landmarks)
        except align.AlignmentError:
            return 0.0
        scale = TEMPLATE_SIZE / LOOK_SIZE
        again = self._upright.detect(align.cut(image, similarity, LOOK_SIZE))
        return max((one.score for one in again if _off(one.landmarks * scale) < MAX_OFF), default=0)


def _is_clear(score: float, face: Detection, best_score: float) -> bool:
    """Say whether what lies otherwise than most faces is one; a hand may look like it."""
    misfit = align.fit(face.landmarks).misfit
    is_as_sure = misfit < GOOD_MISFIT or score >= AS_SURE * best_score
    return score >= SURE and misfit < SURE_MISFIT and is_as_sure


def _way(face: Detection) -> int:
    """Return by how many quarters a face is turned, in [0, 4)."""
    return round(face.roll_deg / 90) % 4


def _usual_way(faces: Sequence[Detection]) -> int:
    """Return which way up most faces of a picture are, weighted by their scores.

    A single face does not show that a picture is not upright, since most are.
    """
    weights = [1.0, 0.0, 0.0, 0.0]
    for face in faces:
        weights[_way(face)] += face.score
    return int(np.argmax(weights))


def _other_ways(group: Sequence[Detection]) -> list[Detection]:
    """Return the best finding of each way up that contradicts all better ones."""
    ways = [group[0]]
    for one in group[1:]:
        if all(_degrees_apart(one, way) > OTHER_WAY_DEG for way in ways):
            ways.append(one)
    return ways[1:]


def _degrees_apart(one: Detection, other: Detection) -> float:
    return abs((one.roll_deg - other.roll_deg + 180) % 360 - 180)


def _off(landmarks: Landmarks) -> float:
    return float(np.linalg.norm(landmarks - TEMPLATE, axis=1).mean()) / _EYE_DISTANCE


def _turned_back(points: Landmarks, turns: int, width: int, height: int) -> Landmarks:
    """Move points (x, y) of a picture turned by `np.rot90` to where they were before.

    `width` and `height` are those before. Whole numbers are the centres of pixels.
    """
    x, y = points.T
    moved = [(x, y), (width - 1 - y, x), (width - 1 - x, height - 1 - y), (y, height - 1 - x)]
    return np.stack(moved[turns], axis=1)
