"""Enlarging by two and a 3 x 3 convolution as one smaller convolution, for inference.

Where each pixel is repeated in both directions, several taps of the 3 x 3 kernel meet the same
pixel: their weights can be added beforehand. Of the kernel's rows w0, w1, w2, an even row of the
result sees w0 above and w1 + w2, an odd one w0 + w1 and w2 below; columns alike. So each of the
four phases of the result is a 2 x 2 convolution of the small picture: 16 multiplications where
there were 36.

B batch, C channels, D channels of the result, H and W of the small picture.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))


class EnlargingConvolution(nn.Module):
    """Repeat each pixel 2 x 2 times and convolve: (B, C, H, W) -> (B, D, 2H, 2W)."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        """Take the weights of a 3 x 3 convolution with a border of one zero."""
        super().__init__()
        phases = phase_weights(convolution.weight.detach().float())
        self.weight = nn.Parameter(phases.to(convolution.weight.dtype), requires_grad=False)
        self.bias: nn.Parameter | None = None
        if convolution.bias is not None:
            self.bias = nn.Parameter(convolution.bias.detach().repeat(4), requires_grad=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return F.pixel_shuffle(torch.stack(self.phases(x_BCHW), dim=2).flatten(1, 2), 2)

    def phases(self, x_BCHW: Tensor) -> list[Tensor]:
        """Return the phases of the result: even-even, even-odd, and so on, (B, D, H, W) each."""
        height, width = x_BCHW.shape[2:]
        all_phases = F.conv2d(x_BCHW, self.weight, self.bias, padding=1)  # B, 4D, H + 1, W + 1
        return [
            one[:, :, row : row + height, column : column + width]
            for one, (row, column) in zip(all_phases.chunk(4, dim=1), _CORNERS, strict=True)
        ]


def phase_weights(weight_DC33: Tensor) -> Tensor:
    """Return the kernels of the phases, (4D, C, 2, 2): even-even of all D, even-odd, and so on."""
    rows = _phases(weight_DC33, dim=2)
    return torch.cat([one for row in rows for one in _phases(row, dim=3)])


def _phases(weight: Tensor, dim: int) -> list[Tensor]:
    first, middle, last = weight.unbind(dim)
    return [torch.stack(two, dim) for two in ((first, middle + last), (first + middle, last))]


def use_phases(decoder: nn.Module) -> None:
    """Put `EnlargingConvolution` in place of what enlarges in a decoder of diffusers."""
    from diffusers.models.upsampling import Upsample2D

    for name, module in list(decoder.named_modules()):
        if isinstance(module, Upsample2D) and (convolution := _only_convolution(module)):
            decoder.set_submodule(name, EnlargingConvolution(convolution))


def _only_convolution(module: nn.Module) -> nn.Conv2d | None:
    """Return the 3 x 3 convolution of a module that has nothing else beside it; None: another."""
    found = [one for one in module.modules() if one is not module]
    if len(found) != 1 or not isinstance(found[0], nn.Conv2d):
        return None
    return found[0] if is_usual(found[0]) else None


def is_usual(one: nn.Conv2d) -> bool:
    """Say whether a convolution is 3 x 3, with a border of one zero, and keeps height and width."""
    shape = (one.kernel_size, one.stride, one.padding, one.dilation, one.groups)
    return shape == ((3, 3), (1, 1), (1, 1), (1, 1), 1) and one.padding_mode == "zeros"
