"""Coordinates, masks and noise, which all parts of a portrait use.

Lengths are eye distances: the origin lies between the eyes, x to the right, y down, z to the
viewer. (x, y) is the plane of the picture, turned by the head's roll; (u, v) is fixed to the face:
it follows the head's turn (yaw) and nod (pitch). Light is linear RGB.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from components import images
from components.portraits.traits import Colour, Traits

# (H, W), or (H, W, 3) for light; float32 throughout, for speed
Field: TypeAlias = npt.NDArray[np.floating[Any]]

_EYES_AT = 0.44  # of the picture's height


@dataclass(frozen=True)
class Canvas:
    """A picture's pixels in the coordinates of one head."""

    size: int  # of the whole picture, pixels
    pixel: float  # width of a pixel, in eye distances
    x: Field
    y: Field
    u: Field
    v: Field
    traits: Traits
    corner: tuple[int, int] = (0, 0)  # of a window, column and row in the whole picture

    def window(
        self, at_uv: tuple[float, float], reach: float
    ) -> tuple[Canvas, tuple[slice, slice]]:
        """Return the part of the canvas around a point of the face: small features cost little."""
        column, row = self.to_pixels(np.array([at_uv]))[0]
        span = reach / self.pixel
        part = tuple(
            slice(max(0, round(at - span)), max(1, min(self.size, round(at + span))))
            for at in (row, column)
        )
        fields = {name: getattr(self, name)[part] for name in ("x", "y", "u", "v")}
        rows, columns = part
        return replace(self, **fields, corner=(columns.start, rows.start)), (rows, columns)

    def to_pixels(self, points_uv: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return where points of the face, (..., 2), lie in the whole picture."""
        t = self.traits
        u, v = points_uv[..., 0], points_uv[..., 1]
        x, y = u.copy(), v.copy()
        for _ in range(12):  # a contraction: the turn moves a point by less than its depth
            z = _depth(x, y)
            x, y = u * math.cos(t.yaw) + math.sin(t.yaw) * z, v + math.sin(t.pitch) * z
        turned = np.stack([x, y], axis=-1) @ _rotation(t.roll).T
        return np.asarray(turned * t.scale + _origin(t, self.size))


def prepare(traits: Traits, size: int) -> Canvas:
    rows, columns = np.mgrid[0:size, 0:size].astype(np.float32)
    origin = _origin(traits, size)
    plane = np.stack([columns - origin[0], rows - origin[1]], axis=-1) / traits.scale
    plane = (plane @ _rotation(traits.roll)).astype(np.float32)
    x, y = np.ascontiguousarray(plane[..., 0]), np.ascontiguousarray(plane[..., 1])
    z = _depth(x, y).astype(np.float32)
    u = (x - math.sin(traits.yaw) * z) / math.cos(traits.yaw)
    v = y - math.sin(traits.pitch) * z
    return Canvas(size, 1 / traits.scale, x, y, u, v, traits)


def _depth(x: Field, y: Field) -> Field:
    """Return roughly how far a point of the face is in front of the plane through the ears."""
    skull = np.sqrt(np.clip(1 - (x / 1.25) ** 2 - ((y - 0.15) / 1.9) ** 2, 0, None))
    nose = np.exp(-((x / 0.22) ** 2) - ((y - 0.58) / 0.25) ** 2)
    return np.asarray(0.62 * skull + 0.2 * nose)


def _rotation(angle: float) -> npt.NDArray[np.float64]:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _origin(traits: Traits, size: int) -> npt.NDArray[np.float64]:
    return np.array([size / 2, size * _EYES_AT]) + traits.offset


def step(low: float, high: float, value: Field) -> Field:
    """Return a smooth step from 0 at `low` to 1 at `high`, which may be below `low`."""
    t: Field = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def inside(distance: Field, edge: float) -> Field:
    """Return a cover of 1 at negative distances, with an antialiased edge of the given width."""
    cover: Field = np.clip(0.5 - distance / edge, 0, 1)
    return cover


def bump(u: Field, v: Field, at: tuple[float, float], width: float, height: float) -> Field:
    """Return a Gaussian hill of height 1."""
    return np.exp(-(((u - at[0]) / width) ** 2) - ((v - at[1]) / height) ** 2)


def blur(field: Field, sigma: float) -> Field:
    return np.asarray(cv2.GaussianBlur(np.asarray(field, np.float32), (0, 0), sigma), np.float32)


def lay(light: Field, colour: Field | Colour, cover: Field) -> None:
    """Draw a colour over the light, in place, where `cover` is above 0."""
    rows = np.flatnonzero(cover.max(axis=1) > 0)
    columns = np.flatnonzero(cover.max(axis=0) > 0)
    if not rows.size:
        return
    window = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    value = np.asarray(colour, np.float32)
    value = value[window] if value.ndim == 3 else value
    part = cover[window][..., None]
    light[window] += (value - light[window]) * part


def noise(rng: np.random.Generator, size: int, grain: float) -> Field:
    """Draw smooth noise of mean 0 and deviation about 1; `grain` is a blob's width in pixels."""
    cells = max(2, int(np.ceil(size / grain)) + 3)
    coarse = rng.standard_normal((cells, cells), dtype=np.float32)
    fine = cv2.resize(coarse, None, fx=grain, fy=grain, interpolation=cv2.INTER_CUBIC)
    return np.asarray(fine[:size, :size], dtype=np.float32) * 1.3


def clouds(rng: np.random.Generator, size: int, grain: float, octaves: int) -> Field:
    """Draw noise in which each finer layer is weaker; deviation about 1."""
    total = np.zeros((size, size), np.float32)
    for octave in range(octaves):
        total += noise(rng, size, max(1.0, grain / 2**octave)) * 0.6**octave
    return total * 0.8


def strokes(canvas: Canvas, lines_uv: npt.NDArray[np.float64], *, width: float = 1) -> Field:
    """Draw thin curves, (curves, points, 2), on the face; return their cover, in [0, 1]."""
    mask = np.zeros(canvas.x.shape, np.uint8)
    fixed = np.rint((canvas.to_pixels(lines_uv) - canvas.corner) * 16).astype(np.int32)
    cv2.polylines(mask, list(fixed), False, 255, max(1, round(width)), cv2.LINE_AA, 4)
    return mask.astype(np.float32) / 255


def develop(light: Field) -> images.Image:
    """Make an 8-bit picture of light: bright parts are compressed, the gamma is 2."""
    toned = light / (1 + np.clip(light - 0.55, 0, None) * 0.55)
    return np.asarray(np.rint(np.sqrt(np.clip(toned, 0, 1)) * 255), dtype=np.uint8)
