"""Cut an upright, centred square face out of a photograph (FFHQ's template; METHOD, section 7)."""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np

from components import images
from components.faces.landmarks import Landmarks
from components.faces.template import TEMPLATE, TEMPLATE_SIZE

# In eye distances of the template. Frontal faces are below 0.05, profiles reach 0.25; landmarks in
# the wrong order are above 0.5, backs of heads that a detector takes for faces at 0.4.
MAX_MISFIT = 0.35
_EYE_DISTANCE = float(np.linalg.norm(TEMPLATE[1] - TEMPLATE[0]))


class AlignmentError(ValueError):
    """Five points are not a face; the message is the reason, ready for a `rejected` list."""


class Similarity(NamedTuple):
    """Rotation, scale and shift: q = matrix @ p + shift, from picture to template coordinates."""

    matrix: Landmarks  # (2, 2)
    shift: Landmarks  # (2,)
    misfit: float  # root mean square distance from the template, in its eye distances

    @property
    def crop_side(self) -> float:
        """Return the side of the square that is cut out, in pixels of the photograph."""
        return TEMPLATE_SIZE / math.sqrt(float(np.linalg.det(self.matrix)))

    @property
    def homogeneous(self) -> Landmarks:
        """Return the (3, 3) matrix that takes (x, y, 1) of the picture to the template."""
        return np.vstack([np.column_stack([self.matrix, self.shift]), [0, 0, 1]])

    def apply(self, points: Landmarks) -> Landmarks:
        return np.asarray(points @ self.matrix.T + self.shift)


def fit(points: Landmarks) -> Similarity:
    """Find the similarity from five points to the template with the least squared error (Umeyama).

    It never mirrors. With points as complex numbers about their means, the best q = a p has
    a = sum(conj(p) q) / sum(|p|^2).

    Raises: AlignmentError if the points coincide or are far from any face.
    """
    template_mean, points_mean = TEMPLATE.mean(axis=0), points.mean(axis=0)
    centred = points - points_mean
    p = centred[:, 0] + 1j * centred[:, 1]
    q = (TEMPLATE - template_mean) @ np.array([1, 1j])
    spread = float((abs(p) ** 2).sum())
    if not math.isfinite(spread) or spread < 1:
        raise AlignmentError("its five landmarks are one point")
    a = (p.conj() * q).sum() / spread
    if abs(a) == 0:
        raise AlignmentError("its five landmarks are not a face")
    misfit = math.sqrt(float((abs(a * p - q) ** 2).mean())) / _EYE_DISTANCE
    if misfit > MAX_MISFIT:
        raise AlignmentError(
            f"its five landmarks are not a face: {misfit:.2f} eye distances from the template, "
            f"at most {MAX_MISFIT}"
        )
    matrix = np.array([[a.real, -a.imag], [a.imag, a.real]])
    return Similarity(matrix, template_mean - matrix @ points_mean, misfit)


def cut(image: images.Image, similarity: Similarity, size: int) -> images.Image:
    """Cut the aligned square and resize it to `size` pixels, without aliasing at any scale.

    Outside the photograph is its mirror image, as in FFHQ (which also blurs it).
    """
    # Sampled at a multiple of `size` near 512, then averaged: one sample per pixel would alias. For
    # the same reason, a larger photograph is first reduced by averages, to less than twice that.
    canvas = size * max(1, round(TEMPLATE_SIZE / size))
    height, width = image.shape[:2]
    factor = max(1, int(similarity.crop_side / canvas))
    if factor > 1:
        smaller = (max(1, width // factor), max(1, height // factor))
        image = np.asarray(cv2.resize(image, smaller, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    to_photograph = scaling(width / image.shape[1], height / image.shape[0])
    to_canvas = scaling(canvas / TEMPLATE_SIZE, canvas / TEMPLATE_SIZE)
    warped = cv2.warpAffine(
        image,
        (to_canvas @ similarity.homogeneous @ to_photograph)[:2],
        (canvas, canvas),
        flags=cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    return images.resize(np.asarray(warped, dtype=np.uint8), size)


def scaling(x: float, y: float) -> Landmarks:
    """Make the (3, 3) matrix that scales coordinates whose whole numbers are centres of pixels."""
    return np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1]])
