"""What a face detector finds, and when two of its findings are one face."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np

from components import images
from components.faces.landmarks import Landmarks

Box: TypeAlias = tuple[float, float, float, float]  # left, top, right, bottom

# Two findings whose landmarks have their middles nearer than this are one face, in sides of the
# larger box. The parts that YuNet finds of a large face are up to 0.3 off; the nearest two people
# of our test photographs are 0.6 apart.
ONE_FACE = 0.45
# What overlaps a better face by more than this share of both is no other one.
MOST_OVERLAP = 0.25


class Detection(NamedTuple):
    """One face. Pixels of the picture; the landmarks are in the order of METHOD, section 7."""

    landmarks: Landmarks
    score: float  # in [0, 1]
    box: Box
    doubt: str | None = None  # why its landmarks cannot be trusted, if they cannot

    @property
    def middle(self) -> Landmarks:
        return np.asarray(self.landmarks.mean(axis=0))

    @property
    def side(self) -> float:
        """Return the side of a square as large as the box."""
        left, top, right, bottom = self.box
        return math.sqrt(max(0.0, right - left) * max(0.0, bottom - top))

    @property
    def roll_deg(self) -> float:
        """Return how far the face is turned in the picture: 0 upright, 180 head down."""
        down = self.landmarks[3:].mean(axis=0) - self.landmarks[:2].mean(axis=0)
        return math.degrees(math.atan2(-down[0], down[1]))


class Detector(Protocol):
    def detect(self, image: images.Image) -> list[Detection]:
        """Find the faces of a picture (RGB), from left to right; any thread may call it."""
        ...


def is_same_face(one: Detection, other: Detection) -> bool:
    apart = float(np.linalg.norm(one.middle - other.middle))
    return apart < ONE_FACE * max(one.side, other.side)


def grouped(found: Iterable[Detection]) -> list[list[Detection]]:
    """Group what is one face; the best score comes first, in each group and among them."""
    groups: list[list[Detection]] = []
    for one in sorted(found, key=lambda one: (-one.score, one.box)):
        for group in groups:
            if is_same_face(one, group[0]):
                group.append(one)
                break
        else:
            groups.append([one])
    return groups


def not_overlapping(faces: Iterable[Detection]) -> list[Detection]:
    """Leave out what lies on a better face: one head, seen twice."""
    kept: list[Detection] = []
    for face in sorted(faces, key=lambda face: (-face.score, face.box)):
        if all(_overlap(face.box, other.box) < MOST_OVERLAP for other in kept):
            kept.append(face)
    return kept


def _overlap(one: Box, other: Box) -> float:
    """Return the common area of two boxes, of the area that they cover together."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return width * height / (areas - width * height)


def from_left(found: Iterable[Detection]) -> list[Detection]:
    return sorted(found, key=lambda face: (face.box[0] + face.box[2], face.box[1]))
