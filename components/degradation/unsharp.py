"""Unsharp mask: a sharper face to aim at, or to degrade, as Real-ESRGAN makes one."""

from typing import Annotated

import cv2
import numpy as np
from pydantic import Field, NonNegativeFloat

from components.degradation.blur import OddInt
from components.images import Image
from components.params import Params


class SharpenParams(Params):
    """Defaults are Real-ESRGAN's (`usm_sharp`), and those of HDRFace's reference for HQ targets."""

    kernel_size: OddInt = 51  # of the Gaussian that is subtracted
    mask_kernel_size: OddInt = 51  # of the Gaussian that softens the mask; 1: a hard edge
    weight: NonNegativeFloat = 0.5
    # In 1/255: smaller details stay as they are.
    threshold: Annotated[float, Field(ge=0, le=255)] = 10


class UnsharpParams(SharpenParams):
    """How the HQ target is sharpened, and whether before LQ is made from it."""

    # True: LQ is made from the sharpened picture (HDRFace's reference, SD 2.1).
    before_degrading: bool = False


def sharpen(hq: Image, params: SharpenParams) -> Image:
    """Return the picture plus `weight` times what a blur removes, where that exceeds `threshold`.

    OpenCV chooses each Gaussian's sigma by its size: 0.3 ((size - 1) / 2 - 1) + 0.8 above 9.
    Shape: (H, W, 3) uint8 -> the same.
    """
    picture = hq.astype(np.float32)
    residual = picture - cv2.GaussianBlur(picture, (params.kernel_size, params.kernel_size), 0)
    mask = (np.abs(residual) > params.threshold).astype(np.float32)
    soft_mask = cv2.GaussianBlur(mask, (params.mask_kernel_size, params.mask_kernel_size), 0)
    sharp = np.clip(picture + params.weight * residual, 0, 255)
    blended = soft_mask * sharp + (1 - soft_mask) * picture
    return np.asarray(np.rint(blended), dtype=np.uint8)
