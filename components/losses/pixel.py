"""Differences of pixels, and the edge map that the perceptual loss also compares."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PixelRange = Literal["unit", "signed"]

GREY = (0.2989, 0.587, 0.114)  # ITU-R BT.601, as torchvision's Grayscale, which the reference uses
SOBEL_X = ((-1.0, 0.0, 1.0), (-2.0, 0.0, 2.0), (-1.0, 0.0, 1.0))


def in_range(image_B3HW: Tensor, pixel_range: PixelRange) -> Tensor:
    """Return a picture in the range that a loss of the method uses.

    `unit`: clamped to [0, 1] (METHOD, section 3: SD 2.1); no gradient beyond the range.
    `signed`: [-1, 1], not clamped (METHOD, section 4: Qwen-Image).
    """
    return image_B3HW.clamp(0, 1) if pixel_range == "unit" else 2 * image_B3HW - 1


class PixelLoss(nn.Module):
    """Mean squared error over batch, channels and pixels; L_rec of eq. 12 with `unit`.

    On [-1, 1] the same difference counts four times as much as on [0, 1].
    """

    def __init__(self, pixel_range: PixelRange) -> None:
        super().__init__()
        self.pixel_range: PixelRange = pixel_range

    def forward(self, restored_B3HW: Tensor, hq_B3HW: Tensor) -> Tensor:
        restored = in_range(restored_B3HW, self.pixel_range)
        return F.mse_loss(restored, in_range(hq_B3HW, self.pixel_range))


def sobel(image_B3HW: Tensor) -> Tensor:
    """Return the edge strength of the grey picture, sqrt(gx² + gy² + 1e-6).

    Shape: (B, 3, H, W) -> (B, 1, H, W). The picture is padded with zeros, as in the reference,
    so the border of a bright picture is an edge.
    """
    grey = image_B3HW.new_tensor(GREY).view(1, 3, 1, 1)
    kernel_x = image_B3HW.new_tensor(SOBEL_X)
    kernels = torch.stack([kernel_x, kernel_x.T]).unsqueeze(1)
    grey_B1HW = (image_B3HW * grey).sum(dim=1, keepdim=True)
    gradients_B2HW = F.conv2d(grey_B1HW, kernels, padding=1)
    return (gradients_B2HW.square().sum(dim=1, keepdim=True) + 1e-6).sqrt()
