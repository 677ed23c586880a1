"""Features of faces for FID, by the Inception network of pytorch-fid (TensorFlow's weights).

B batch, D = 2048 features.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import PIL.Image
import torch
from torch import Tensor
from torch.nn import functional as F

from components import images
from components.images import Image
from components.metrics.pyiqa_files import offline

SIZE = 299


class InceptionFeatures:
    """Give the pooled features (B, D) of faces; `prepare` resizes them to [-1, 1]."""

    def __init__(
        self, hub: Path, *, prepare: Callable[[Tensor], Tensor], device: torch.device
    ) -> None:
        with offline(hub):
            from pyiqa.archs.inception import InceptionV3

            self.network = InceptionV3(output_blocks=[3]).to(device).eval()
        self.prepare, self.device = prepare, device

    def __call__(self, images_B3HW: Tensor) -> npt.NDArray[np.float32]:
        prepared = self.prepare(images_B3HW).to(self.device)
        (features_BD11,) = self.network(prepared, False, False)
        return np.asarray(features_BD11.flatten(1).float().cpu().numpy())


def bilinear(images_B3HW: Tensor) -> Tensor:
    """Resize as VQFR does: bilinear, which aliases when it shrinks a picture."""
    size = (SIZE, SIZE)
    return F.interpolate(2 * images_B3HW - 1, size=size, mode="bilinear", align_corners=False)


def clean(images_B3HW: Tensor) -> Tensor:
    """Resize as clean-fid does: Pillow's bicubic, each colour as float32, without aliasing."""
    prepared = [_clean(face) for face in images.from_tensor(images_B3HW)]
    return (torch.from_numpy(np.stack(prepared)).permute(0, 3, 1, 2) - 128) / 128


def _clean(face: Image) -> npt.NDArray[np.float32]:
    bands = [
        PIL.Image.fromarray(band.astype(np.float32)).resize(
            (SIZE, SIZE), resample=PIL.Image.Resampling.BICUBIC
        )
        for band in np.moveaxis(face, 2, 0)
    ]
    return np.stack([np.asarray(band).clip(0, 255) for band in bands], axis=2)
