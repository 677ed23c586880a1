"""LMD: how far facial landmarks moved, in pixels of a picture of 512 x 512 (METHOD, section 9).

B batch, P points (x, y), as fractions of the picture's side.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from components import images
from components.images import Image

SIDE = 512  # pixels, in which distances are given
Points = npt.NDArray[np.float64]
FindLandmarks = Callable[[Sequence[Image]], Points]  # faces -> (B, P, 2)

_AWING_SIZE, _AWING_POINTS, _HEAT_MAP = 256, 98, 64


class LandmarkDistance:
    """Return the mean distance between the landmarks of restored and true face; 0 if equal."""

    def __init__(self, find: FindLandmarks) -> None:
        self.find = find

    def __call__(self, images_B3HW: Tensor, hq_B3HW: Tensor) -> npt.NDArray[np.float64]:
        """Return a distance per face, (B,)."""
        moved_BP2 = self.find(images.from_tensor(images_B3HW)) - self.find(
            images.from_tensor(hq_B3HW)
        )
        return np.asarray(np.linalg.norm(moved_BP2, axis=2).mean(axis=1) * SIDE)


class AwingLandmarks:
    """Find 98 points with facexlib's FAN of four hourglasses (Adaptive Wing loss, WFLW).

    The place of a point is the maximum of its heat map, moved by a quarter of a cell to the larger
    neighbour, and by half a cell to the cell's centre.
    """

    def __init__(self, file: Path, *, device: torch.device) -> None:
        """Load the weights. Raises: ValueError if they are of another network."""
        from facexlib.alignment.awing_arch import FAN

        weights: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        self.network = FAN(num_modules=4, num_landmarks=_AWING_POINTS, device=device)
        try:
            self.network.load_state_dict(weights["state_dict"])
        except (KeyError, RuntimeError) as error:
            raise ValueError(f"{file} is not facexlib's FAN of 4 hourglasses: {error}") from error
        self.network.to(device).eval()
        self.device = device

    def __call__(self, faces: Sequence[Image]) -> Points:
        size = (_AWING_SIZE, _AWING_SIZE)
        resized = [np.asarray(cv2.resize(face, size), np.uint8) for face in faces]
        heat_maps, _ = self.network(images.to_tensor(resized).to(self.device))
        return places(heat_maps[-1][:, :_AWING_POINTS].float().cpu().numpy())


def places(heat_maps: npt.NDArray[np.float32]) -> Points:
    """Return where heat maps (B, P, h, w) have their maxima, as (B, P, 2) fractions, x first.

    A maximum on the border has one neighbour in that direction, and is not moved along it.
    """
    batch, points, height, width = heat_maps.shape
    y, x = np.divmod(heat_maps.reshape(batch, points, -1).argmax(axis=2), width)
    row, column = np.ogrid[:batch, :points]

    def at(y: npt.NDArray[np.int64], x: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        values = heat_maps[row, column, y.clip(0, height - 1), x.clip(0, width - 1)]
        return np.asarray(values, np.float32)

    right = np.sign(at(y, x + 1) - at(y, x - 1)) * ((x > 0) & (x < width - 1))
    down = np.sign(at(y + 1, x) - at(y - 1, x)) * ((y > 0) & (y < height - 1))
    return np.stack([(x + right / 4 + 0.5) / width, (y + down / 4 + 0.5) / height], axis=2)


class Convention(NamedTuple):
    """How a network of landmarks takes a face, and gives its points."""

    size: int  # pixels of its input
    box: tuple[float, float, float]  # left, top, side of its square, in an FFHQ-aligned picture
    mean: float
    scale: float
    signed: bool  # points in [-1, 1], not in [0, 1]


# InsightFace's square is 1.5 times the face's box, about the whole FFHQ-aligned picture. 2d106det
# normalises its input itself.
INSIGHTFACE_106 = Convention(192, (0.0, 0.0, 1.0), 0.0, 1.0, signed=True)
# PFLD's square is the face's box and 10 %. Among squares in steps of 0.05, this one brings
# the eyes, nose and mouth corners of 24 aligned faces nearest to the template: 10.3 of 512 pixels.
PFLD_68 = Convention(112, (0.225, 0.25, 0.55), 0.0, 255.0, signed=False)


class OnnxLandmarks:
    """Find points with an ONNX network; the FFHQ template says where the face is."""

    def __init__(self, file: Path, convention: Convention) -> None:
        """Open the file. Raises: ValueError if its input is different."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            file, options, providers=["CPUExecutionProvider"]
        )
        self.convention, (given, *others) = convention, self._session.get_inputs()
        size = convention.size
        if others or given.shape[1:] != [3, size, size]:
            raise ValueError(
                f"{file}: its input is {given.shape}, not (batch, 3, {size}, {size}): it is "
                "another network of landmarks"
            )
        self._input: str = given.name
        self._one_by_one = given.shape[0] == 1

    def __call__(self, faces: Sequence[Image]) -> Points:
        how, width = self.convention, faces[0].shape[0]
        left, top, side = (round(number * width) for number in how.box)
        cut = [face[top : top + side, left : left + side] for face in faces]
        stacked = np.stack([images.resize(one, how.size) for one in cut]).transpose(0, 3, 1, 2)
        crops = (stacked.astype(np.float32) - how.mean) / np.float32(how.scale)
        step = 1 if self._one_by_one else len(crops)
        found = np.concatenate(
            [
                self._session.run(None, {self._input: crops[start : start + step]})[0]
                for start in range(0, len(crops), step)
            ]
        ).astype(np.float64)
        points_BP2 = found.reshape(len(faces), -1, 2)
        inside = (points_BP2 + 1) / 2 if how.signed else points_BP2
        return np.asarray((inside * side + (left, top)) / width)
