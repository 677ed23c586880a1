"""Give a restored face the colours of the picture that it came from (METHOD, section 4).

B batch, H and W of the face. Pictures are RGB in [0, 1]; results may leave that range a little.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from components.backbones.color_fix import ColorFix

WAVELET_LEVELS = 5
_EPS = 1e-5  # of a variance: a face of one colour has none


def fix_colors(restored_B3HW: Tensor, reference_B3HW: Tensor, how: ColorFix) -> Tensor:
    """Take the colours of `reference`, face by face.

    `adain` takes each channel's mean and deviation, `wavelet` all that is coarser than 2^5 pixels.
    """
    match how:
        case "none":
            return restored_B3HW
        case "adain":
            return _adain(restored_B3HW, reference_B3HW)
        case "wavelet":
            return restored_B3HW - _coarse(restored_B3HW) + _coarse(reference_B3HW)


def _adain(restored_B3HW: Tensor, reference_B3HW: Tensor) -> Tensor:
    variance, mean = torch.var_mean(restored_B3HW, dim=(2, 3), keepdim=True)
    wanted_variance, wanted_mean = torch.var_mean(reference_B3HW, dim=(2, 3), keepdim=True)
    scale = ((wanted_variance + _EPS) / (variance + _EPS)).sqrt()
    return (restored_B3HW - mean) * scale + wanted_mean


def _coarse(image_B3HW: Tensor) -> Tensor:
    """Blur with the binomial 3 x 3 kernel, its taps 1, 2, 4, 8 and 16 pixels apart in turn."""
    taps = image_B3HW.new_tensor([0.25, 0.5, 0.25])
    kernel_3133 = torch.outer(taps, taps).expand(3, 1, 3, 3)
    for level in range(WAVELET_LEVELS):
        apart = 2**level
        padded = F.pad(image_B3HW, [apart] * 4, mode="replicate")
        image_B3HW = F.conv2d(padded, kernel_3133, dilation=apart, groups=3)
    return image_B3HW
