"""Draw portraits of people who do not exist: faces for a first run, without a download.

A portrait depends only on its seed and number. The five landmarks are known, not detected.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from components import images
from components.faces.landmarks import Landmarks
from components.keyed_random import generator
from components.portraits import backdrop, canvas, choosing, features, hair, relief, worn

SIZE = 320  # pixels; the aligned square inside is about 260 wide


class Portrait(NamedTuple):
    image: images.Image  # RGB
    landmarks: Landmarks  # pixels, in METHOD's order


def draw(seed: int, number: int, *, size: int = SIZE) -> Portrait:
    """Draw one portrait."""
    person = choosing.choose(_rng(seed, number, "traits"), size)
    sheet = canvas.prepare(person, size)
    light = backdrop.paint(sheet, _rng(seed, number, "backdrop"))
    head = relief.raise_head(sheet, _rng(seed, number, "relief"))
    lighting = relief.illuminate(sheet, head, _rng(seed, number, "light"))
    # Both layers of hair have one key: they belong together.
    hair.paint_back(light, sheet, lighting, _rng(seed, number, "hair"))
    features.paint_skin(light, sheet, head, lighting, _rng(seed, number, "skin"))
    worn.paint_clothes(light, sheet, head, lighting, _rng(seed, number, "clothes"))
    features.paint_mouth(light, sheet, lighting, _rng(seed, number, "mouth"))
    hair.paint_beard(light, sheet, lighting, _rng(seed, number, "beard"))
    features.paint_eyes(light, sheet, lighting, _rng(seed, number, "eyes"))
    features.paint_brows(light, sheet, _rng(seed, number, "brows"))
    worn.paint_earrings(light, sheet)
    hair.paint_front(light, sheet, lighting, _rng(seed, number, "hair"))
    worn.paint_glasses(light, sheet)
    return Portrait(canvas.develop(light), features.landmarks(sheet))


def _rng(seed: int, number: int, purpose: str) -> np.random.Generator:
    return generator(seed, f"portrait-{number:04d}", 0, purpose)
