"""Which faces of a photograph are restored, and why the others are left as they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from components.faces import align
from components.faces.align import Similarity
from components.faces.detect import Detection, Detector
from components.faces.landmarks import Landmarks
from components.faces.template import TEMPLATE, TEMPLATE_SIZE
from components.images import Image


@dataclass(frozen=True)
class FoundFace:
    """One face, in pixels of the upright photograph; with a reason, it is left as it is."""

    landmarks: Landmarks  # (5, 2)
    box: tuple[float, float, float, float]  # left, top, right, bottom
    score: float | None  # the detector's, in [0, 1]; None: none was asked
    similarity: Similarity | None  # to the template; None: its landmarks are no face
    reason: str | None = None
    is_doubtful: bool = False  # the reason is that its landmarks cannot be trusted

    @property
    def width(self) -> float | None:
        """About the width of the face: half of its aligned square's side."""
        return None if self.similarity is None else self.similarity.crop_side / 2


def find_faces(
    image: Image, detector: Detector, *, min_face: int, only_center_face: bool
) -> list[FoundFace]:
    """Find the faces of a photograph, from its left to its right.

    `min_face` is the least width of a face, in pixels. With `only_center_face`, all are left but
    the usable one nearest to the photograph's centre.
    """
    faces = [_usable(found, image, min_face) for found in detector.detect(image)]
    return _only_center(faces, image) if only_center_face else faces


def whole_face(image: Image) -> FoundFace:
    """Take a photograph that is an aligned face already, with the template's landmarks.

    Raises: ValueError if it is not square.
    """
    height, width = image.shape[:2]
    if height != width:
        raise ValueError(
            f"{width} x {height} is not square, as aligned faces are: restore it without 'aligned'"
        )
    scale = width / TEMPLATE_SIZE
    # Whole numbers are the centres of pixels.
    landmarks = (TEMPLATE + 0.5) * scale - 0.5
    similarity = Similarity(np.eye(2) / scale, np.full(2, 0.5 / scale - 0.5), 0.0)
    return FoundFace(landmarks, (0.0, 0.0, float(width), float(height)), None, similarity)


def share_inside(similarity: Similarity, image: Image) -> float:
    """Tell how much of a face's aligned square the photograph shows, in [0, 1]."""
    height, width = image.shape[:2]
    steps = (np.arange(32) + 0.5) * TEMPLATE_SIZE / 32
    grid = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    x, y = ((grid - similarity.shift) @ np.linalg.inv(similarity.matrix).T).T
    inside = (x >= -0.5) & (x <= width - 0.5) & (y >= -0.5) & (y <= height - 0.5)
    return float(inside.mean())


def _usable(found: Detection, image: Image, min_face: int) -> FoundFace:
    face = FoundFace(found.landmarks, found.box, found.score, None)
    height, width = image.shape[:2]
    x, y = found.landmarks.mean(axis=0)
    if not (0 <= x < width and 0 <= y < height):
        return replace(face, reason="its middle lies outside the photograph")
    try:
        face = replace(face, similarity=align.fit(found.landmarks))
    except align.AlignmentError as error:
        return replace(face, reason=str(error))
    if found.doubt is not None:
        return replace(face, reason=found.doubt, is_doubtful=True)
    if face.width is not None and face.width < min_face:
        return replace(
            face, reason=f"it is about {face.width:.0f} pixels wide, below min_face = {min_face}"
        )
    return face


def _only_center(faces: Sequence[FoundFace], image: Image) -> list[FoundFace]:
    height, width = image.shape[:2]

    def distance(face: FoundFace) -> float:
        x, y = face.landmarks.mean(axis=0)
        return math.hypot(x - width / 2, y - height / 2)

    center = min((face for face in faces if face.reason is None), key=distance, default=None)
    return [
        replace(face, reason="it is not the centre face")
        if face.reason is None and face is not center
        else face
        for face in faces
    ]
