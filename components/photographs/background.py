"""Enlarge what is not a face: Lanczos, or a super-resolution network that a file holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np
import torch

from components import images
from components.images import Image
from components.photographs.tone import in_tone, tone_of
from components.weights.checkpoints import read_tensors

# Makes a picture (width, height) pixels large.
Upscaler: TypeAlias = Callable[[Image, tuple[int, int]], Image]

TILE = 256  # pixels of the photograph that the network sees at once: bounds its memory
MARGIN = 16  # more of them on each side, which it sees but whose result is not used


def lanczos(image: Image, size: tuple[int, int]) -> Image:
    """Resize to (width, height): Lanczos to enlarge, area average to shrink."""
    height, width = image.shape[:2]
    if (width, height) == size:
        return image
    way = cv2.INTER_AREA if size[0] < width else cv2.INTER_LANCZOS4
    return np.asarray(cv2.resize(image, size, interpolation=way), dtype=np.uint8)


class SuperResolution:
    """Enlarge with a network of any architecture that spandrel knows, then fit to the size asked.

    Raises: FileNotFoundError; ValueError if the file holds no RGB super-resolution network.
    """

    def __init__(self, file: Path, *, device: str) -> None:
        import spandrel

        try:
            # spandrel's own reader unpickles.
            found = spandrel.ModelLoader().load_from_state_dict(read_tensors(file))
        except spandrel.UnsupportedModelError as error:
            raise ValueError(f"{file} holds no network that spandrel knows") from error
        if not isinstance(found, spandrel.ImageModelDescriptor) or found.input_channels != 3:
            raise ValueError(f"{file} does not turn one RGB picture into one")
        self._device = torch.device(device)
        self._network = found.to(self._device).eval()
        self.factor: int = found.scale

    def __call__(self, image: Image, size: tuple[int, int]) -> Image:
        """Resize to (width, height), tile by tile; a grey or toned picture keeps its toning."""
        height, width = image.shape[:2]
        k = self.factor
        enlarged = np.empty((height * k, width * k, 3), dtype=np.uint8)
        for top in range(0, height, TILE):
            for left in range(0, width, TILE):
                bottom, right = min(top + TILE, height), min(left + TILE, width)
                y, x = max(top - MARGIN, 0), max(left - MARGIN, 0)
                seen = self._enlarge(image[y : bottom + MARGIN, x : right + MARGIN])
                inner = seen[(top - y) * k : (bottom - y) * k, (left - x) * k : (right - x) * k]
                enlarged[top * k : bottom * k, left * k : right * k] = inner
        # Such networks tint grey pictures a little, too.
        return in_tone(lanczos(enlarged, size), tone_of(image))

    @torch.no_grad()
    def _enlarge(self, tile: Image) -> Image:
        tile_13HW = images.to_tensor([tile], self._device)
        return images.from_tensor(self._network(tile_13HW))[0]
