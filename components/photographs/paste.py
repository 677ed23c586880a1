"""Put a restored face back: turned and scaled to where it was, under a mask with soft edges.

Three systems of coordinates: the photograph, the template (512 wide), the canvas, which is the
photograph made larger. Whole numbers are the centres of pixels.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

from components import images
from components.faces.align import Similarity, scaling
from components.faces.landmarks import Landmarks
from components.faces.template import TEMPLATE_SIZE
from components.images import Image

Grid = npt.NDArray[np.float32]

# An oval about a face, in its own measures: the eyes' distance or the drop from the eyes to the
# mouth, whichever is longer, is 1 across; the drop is 1 down. For a frontal face it ends below the
# hairline, at the ears and at the chin; its soft edge lies within.
HALF_WIDTH, HALF_HEIGHT = 1.25, 1.55
CENTRE = 0.33  # of the drop, below the eyes
# A turned face shows more of the cheek that the nose points away from: the oval goes that way, by
# as much as the nose is off the middle between the eyes and the mouth.
TURN = 1.0
FEATHER = 0.4  # of the oval's radius: how wide the soft edge is
EDGE = 48  # pixels of the template within which the mask ends at the border of the square


def paste(
    canvas: Image,
    face: Image,
    similarity: Similarity,
    landmarks: Landmarks,
    scale: tuple[float, float],
) -> None:
    """Lay a restored face over the canvas, in place.

    Args:
        canvas: the photograph made `scale` (across, down) times larger; uint8 (H, W, 3).
        face: the restored aligned square, of any size.
        similarity: from photograph to template.
        landmarks: (5, 2), in pixels of the photograph.
        scale: canvas pixels a pixel of the photograph, across and down.
    """
    to_canvas = scaling(*scale) @ np.linalg.inv(similarity.homogeneous)
    left, top, right, bottom = _bounds(to_canvas, canvas)
    if left >= right or top >= bottom:
        return
    to_region = np.array([[1, 0, -left], [0, 1, -top], [0, 0, 1]]) @ to_canvas
    width, height = right - left, bottom - top
    region = canvas[top:bottom, left:right]
    x, y = _template_coordinates(np.linalg.inv(to_region), width, height)
    mask = soft_mask(similarity.apply(landmarks), x, y)[..., None]
    warped = _warp(face, to_region, width, height)
    region[:] = np.rint(region + mask * (warped - region.astype(np.float32)))


def soft_mask(landmarks: Landmarks, x: Grid, y: Grid) -> Grid:
    """Give the weight of the restored face, in [0, 1], at points of the template.

    It follows the face: an oval turned and sized by its landmarks (template coordinates), 1 inside,
    falling smoothly to 0 at its rim and before the border of the square.
    """
    eyes, mouth = landmarks[:2].mean(axis=0), landmarks[3:].mean(axis=0)
    drop = float(np.linalg.norm(mouth - eyes))
    down_x, down_y = (mouth - eyes) / drop
    sideways = np.array([down_y, -down_x])
    turned = float((landmarks[2] - eyes) @ sideways)
    centre_x, centre_y = eyes + CENTRE * (mouth - eyes) - TURN * turned * sideways
    breadth = max(drop, float(np.linalg.norm(landmarks[1] - landmarks[0])))
    across = ((x - centre_x) * down_y - (y - centre_y) * down_x) / (HALF_WIDTH * breadth)
    down = ((x - centre_x) * down_x + (y - centre_y) * down_y) / (HALF_HEIGHT * drop)
    oval = _smoothstep((1 - np.hypot(across, down)) / FEATHER)
    last = TEMPLATE_SIZE - 0.5
    to_border = np.minimum(np.minimum(x + 0.5, last - x), np.minimum(y + 0.5, last - y))
    return np.asarray(oval * _smoothstep(to_border / EDGE), dtype=np.float32)


def _bounds(to_canvas: npt.NDArray[np.float64], canvas: Image) -> tuple[int, int, int, int]:
    """Give left, top, right, bottom of what the aligned square covers of the canvas."""
    low, high = -0.5, TEMPLATE_SIZE - 0.5
    corners = np.array([[low, high, high, low], [low, low, high, high], [1, 1, 1, 1]])
    x, y = (to_canvas @ corners)[:2]
    height, width = canvas.shape[:2]
    return (
        max(0, math.floor(x.min())),
        max(0, math.floor(y.min())),
        min(width, math.ceil(x.max()) + 1),
        min(height, math.ceil(y.max()) + 1),
    )


def _template_coordinates(
    from_region: npt.NDArray[np.float64], width: int, height: int
) -> tuple[Grid, Grid]:
    column, row = np.arange(width)[None, :], np.arange(height)[:, None]
    (xx, xy, x0), (yx, yy, y0) = from_region[:2]
    x = xx * column + xy * row + x0
    y = yx * column + yy * row + y0
    return x.astype(np.float32), y.astype(np.float32)


def _warp(face: Image, to_region: npt.NDArray[np.float64], width: int, height: int) -> Image:
    """Draw the aligned square where it belongs; made smaller first if it is to end up smaller."""
    side = TEMPLATE_SIZE * math.sqrt(abs(float(np.linalg.det(to_region))))
    face = images.resize(face, min(face.shape[0], max(1, math.ceil(side))))
    ratio = TEMPLATE_SIZE / face.shape[0]
    warped = cv2.warpAffine(
        face,
        (to_region @ scaling(ratio, ratio))[:2],
        (width, height),
        flags=cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return np.asarray(warped, dtype=np.uint8)


def _smoothstep(t: Grid) -> Grid:
    t = t.clip(0, 1)
    return t * t * (3 - 2 * t)
