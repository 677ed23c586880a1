"""Deg. of the VQFR protocol: the angle between grey faces' embeddings (METHOD, section 9).

B batch, C channels. The attributes' names are the keys of `resnet18_110.pth`.
"""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from components import images

SIZE = 128
LEAST_DEGREES = 1.0  # a smaller angle is left out


class _Block(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut; one PReLU serves twice, as in the publication."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.bn0 = nn.BatchNorm2d(before)
        self.conv1 = nn.Conv2d(before, before, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(before)
        self.prelu = nn.PReLU()
        self.conv2 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            shortcut = nn.Conv2d(before, after, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        out = self.prelu(self.bn1(self.conv1(self.bn0(x))))
        out = self.bn2(self.conv2(out)) + self.downsample(x)
        activated: Tensor = self.prelu(out)
        return activated


class GreyResNet18(nn.Module):
    """The ResNet-18 of arcface-pytorch, without squeeze and excitation.

    Shape: (B, 1, 128, 128) in [-1, 1] -> (B, 512).
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.prelu = nn.PReLU()
        self.maxpool = nn.MaxPool2d(2, 2)
        self.layer1 = nn.Sequential(_Block(64, 64, 1), _Block(64, 64, 1))
        self.layer2 = nn.Sequential(_Block(64, 128, 2), _Block(128, 128, 1))
        self.layer3 = nn.Sequential(_Block(128, 256, 2), _Block(256, 256, 1))
        self.layer4 = nn.Sequential(_Block(256, 512, 2), _Block(512, 512, 1))
        self.bn4 = nn.BatchNorm2d(512)
        self.fc5 = nn.Linear(512 * 8 * 8, 512)
        self.bn5 = nn.BatchNorm1d(512)

    def forward(self, x: Tensor) -> Tensor:
        out = self.maxpool(self.prelu(self.bn1(self.conv1(x))))
        out = self.layer4(self.layer3(self.layer2(self.layer1(out))))
        embedded: Tensor = self.bn5(self.fc5(self.bn4(out).flatten(1)))
        return embedded


class GreyIdentityAngle:
    """Return the angle in degrees between grey faces; NaN below 1 degree, which is left out."""

    def __init__(self, file: Path, *, device: torch.device) -> None:
        """Load the weights. Raises: ValueError if they are of another network."""
        weights: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        named = {key.removeprefix("module."): value for key, value in weights.items()}
        self.network = GreyResNet18()
        try:
            self.network.load_state_dict(named)
        except RuntimeError as error:
            raise ValueError(f"{file} is not the ResNet-18 of arcface-pytorch: {error}") from error
        self.network.to(device).eval()
        self.device = device

    def __call__(self, images_B3HW: Tensor, hq_B3HW: Tensor) -> npt.NDArray[np.float64]:
        """Return an angle per face, (B,)."""
        one, other = self._embed(images_B3HW), self._embed(hq_B3HW)
        cosines = np.einsum("bd,bd->b", one, other).clip(-1, 1)
        degrees = np.degrees(np.arccos(cosines))
        return np.where(degrees < LEAST_DEGREES, np.nan, degrees)

    def _embed(self, images_B3HW: Tensor) -> npt.NDArray[np.float64]:
        grey = np.stack([_grey(face) for face in images.from_tensor(images_B3HW)])
        grey_B1HW = torch.from_numpy((grey[:, None].astype(np.float32) - 127.5) / 127.5)
        embeddings = self.network(grey_B1HW.to(self.device)).double().cpu().numpy()
        unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
        return np.asarray(unit, dtype=np.float64)


def _grey(face: images.Image) -> npt.NDArray[np.uint8]:
    grey = cv2.cvtColor(face, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)
    return np.asarray(small, dtype=np.uint8)
