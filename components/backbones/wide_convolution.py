"""3 x 3 convolutions of many channels on a CPU, in float32, in the manner that suits the picture.

A large picture goes through Winograd's convolution. For a small one, PyTorch spends most of its
time on bringing the weights, tens of MB, into an order of its own in each call: it is one product
of matrices here, with the weights as they lie.

N batch, C channels, D channels of the result, H and W pixels, P of them in all.
"""

import torch
from torch import Tensor, nn

from components.backbones.scratch import scratch
from components.backbones.upsampling import is_usual
from components.backbones.winograd import TILE, bordered, convolve, transformed_kernels

# What is faster where was measured: docs/decisions/0024-inference.md.
_FEWEST_CHANNELS = 256
_LARGE = 32  # pixels a side, at least
_SMALL = 256  # pixels of all pictures of a batch, at most


class WideConvolution(nn.Module):
    """A 3 x 3 convolution with a border of one zero: (N, C, H, W) -> (N, D, H, W).

    It is for inference, and its results lie channels last. Winograd's kernels take four times the
    memory of the weights. A picture between small and large, one whose sides are no multiples of 4,
    one on another device or in other numbers goes through PyTorch's own convolution.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        """Use the weights of a convolution that has been prepared."""
        super().__init__()
        self.convolution = convolution
        self._kernels_36CD: Tensor | None = None  # made when they are first needed

    def forward(self, x_NCHW: Tensor) -> Tensor:
        bias_D = self.convolution.bias
        assert bias_D is not None  # `use_wide_convolutions` takes no other
        if x_NCHW.device.type == "cpu" and x_NCHW.dtype == torch.float32:
            if _is_large(x_NCHW):
                if self._kernels_36CD is None:
                    self._kernels_36CD = transformed_kernels(self.convolution.weight)
                return convolve(x_NCHW, self._kernels_36CD, bias_D)
            if x_NCHW[:, 0].numel() <= _SMALL:
                return as_one_product(x_NCHW, self.convolution.weight, bias_D)
        own: Tensor = self.convolution(x_NCHW)
        return own


def _is_large(x_NCHW: Tensor) -> bool:
    height, width = x_NCHW.shape[2:]
    return height % TILE == width % TILE == 0 and min(height, width) >= _LARGE


def as_one_product(x_NCHW: Tensor, weight_DC33: Tensor, bias_D: Tensor) -> Tensor:
    """Convolve a small picture: what each pixel sees, times the weights.

    The weights lie channels last; else they are copied.
    """
    batch, channels, height, width = x_NCHW.shape
    seen = bordered(x_NCHW.permute(0, 2, 3, 1), 0, height)
    seen = seen.unfold(1, 3, 1).unfold(2, 3, 1).permute(0, 1, 2, 4, 5, 3)
    seen_P9C = scratch("patches", batch * height * width, 9 * channels)
    seen_P9C.view(seen.shape).copy_(seen)
    weight_D9C = weight_DC33.permute(0, 2, 3, 1).flatten(1)
    y_PD = torch.addmm(bias_D, seen_P9C, weight_D9C.t())
    return y_PD.view(batch, height, width, -1).permute(0, 3, 1, 2)


def use_wide_convolutions(network: nn.Module) -> bool:
    """Put `WideConvolution` in place of the convolutions that it makes faster, if any."""
    layers = list(network.named_modules())
    wide = {name: one for name, one in layers if isinstance(one, nn.Conv2d) and _gains(one)}
    for name, convolution in wide.items():
        network.set_submodule(name, WideConvolution(convolution))
    return bool(wide)


def _gains(one: nn.Conv2d) -> bool:
    is_wide = min(one.in_channels, one.out_channels) >= _FEWEST_CHANNELS
    return is_wide and one.bias is not None and is_usual(one)
