"""3 x 3 convolutions on a CPU with a quarter of the multiplications: Winograd's F(4 x 4, 3 x 3).

A tile of 4 x 4 results is the product of two polynomials in each direction, and a product of degree
5 is known from its values at five points and at infinity (Toom and Cook; Lavin and Gray, 2016):

    tile = A' [(G k G') * (B' p B)] A

with the kernel k, 3 x 3, the patch p, 6 x 6, of the picture, and * number by number: 36
multiplications in place of 144. Over channels, * is one product of matrices for each of the 36.

The points 0, ±sqrt(1/2) and ±sqrt(2) round less than the usual 0, ±1 and ±2. Results are about five
times as far from exact ones as PyTorch's own convolution in float32 is (1e-6 of their size).

N batch, C channels, D channels of the result, H and W pixels.
"""

import threading
from math import prod

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from components.backbones.upsampling import is_usual

_POINTS = (0, 0.5**0.5, -(0.5**0.5), 2**0.5, -(2**0.5))
_TILE, _PATCH = 4, 6  # pixels a side
# Below, adding up costs what multiplying less saves (measured: docs/decisions/0024-inference.md).
_FEWEST_CHANNELS = 256
_SMALLEST = 32  # pixels a side
_AT_ONCE = 4 * 2**20  # numbers: 16 MB, so that a part stays in the processor's cache


class WinogradConvolution(nn.Module):
    """A 3 x 3 convolution with a border of one zero: (N, C, H, W) -> (N, D, H, W), in float32.

    It is for inference. Its transformed kernels take four times the memory of the weights. A small
    picture, one whose sides are no multiples of 4, one on another device or in other numbers goes
    through PyTorch's own convolution.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        """Use the weights of a convolution that has been prepared."""
        super().__init__()
        self.convolution = convolution
        self._kernels_36CD: Tensor | None = None  # made when they are first needed

    def forward(self, x_NCHW: Tensor) -> Tensor:
        if not _suits(x_NCHW):
            own: Tensor = self.convolution(x_NCHW)
            return own
        if self._kernels_36CD is None:
            self._kernels_36CD = transformed_kernels(self.convolution.weight)
        assert self.convolution.bias is not None  # `use_winograd` takes no other
        return convolve(x_NCHW, self._kernels_36CD, self.convolution.bias)


def _suits(x_NCHW: Tensor) -> bool:
    height, width = x_NCHW.shape[2:]
    are_tiles = height % _TILE == width % _TILE == 0 and min(height, width) >= _SMALLEST
    return are_tiles and x_NCHW.device.type == "cpu" and x_NCHW.dtype == torch.float32


def use_winograd(network: nn.Module) -> bool:
    """Put `WinogradConvolution` in place of the convolutions that it makes faster, if any."""
    layers = list(network.named_modules())
    wide = {name: one for name, one in layers if isinstance(one, nn.Conv2d) and _gains(one)}
    for name, convolution in wide.items():
        network.set_submodule(name, WinogradConvolution(convolution))
    return bool(wide)


def _gains(one: nn.Conv2d) -> bool:
    is_wide = min(one.in_channels, one.out_channels) >= _FEWEST_CHANNELS
    return is_wide and one.bias is not None and is_usual(one)


def transformed_kernels(weight_DC33: Tensor) -> Tensor:
    """Return G k G' of each kernel, (36, C, D)."""
    _, of_kernels, _ = _transforms()
    outputs, channels = weight_DC33.shape[:2]
    kernels = weight_DC33.detach().permute(2, 3, 1, 0).reshape(9, -1)
    return (of_kernels @ kernels).view(_PATCH**2, channels, outputs)


def convolve(x_NCHW: Tensor, kernels_36CD: Tensor, bias_D: Tensor) -> Tensor:
    """Convolve with transformed kernels. H and W are multiples of 4.

    Rows of tiles are taken a few at a time. Numbers lie channels last throughout.
    """
    of_patches, _, of_tiles = _transforms()
    x_NHWC = x_NCHW.permute(0, 2, 3, 1)
    batch, (height, width) = x_NCHW.shape[0], x_NCHW.shape[2:]
    channels, outputs = kernels_36CD.shape[1:]
    across = width // _TILE
    y_NHWD = x_NHWC.new_empty(batch, height, width, outputs)
    row = _PATCH**2 * batch * across * max(channels, outputs)  # numbers of one row of tiles
    at_once = max(1, _AT_ONCE // row)
    for first in range(0, height // _TILE, at_once):
        rows = min(at_once, height // _TILE - first)
        tiles = batch * rows * across
        top, bottom = first * _TILE, (first + rows) * _TILE
        # A border of zeros for this part alone: a copy of the whole would be new memory each time.
        seen = x_NHWC[:, max(0, top - 1) : bottom + 1]
        seen = F.pad(seen, (0, 0, 1, 1, int(top == 0), int(bottom == height)))
        seen = seen.unfold(1, _PATCH, _TILE).unfold(2, _PATCH, _TILE).permute(4, 5, 0, 1, 2, 3)
        patches = _space("patches", _PATCH**2, tiles * channels)
        patches.view(seen.shape).copy_(seen)
        values = _space("values", _PATCH**2, tiles * channels)
        torch.mm(of_patches, patches, out=values)
        products = _space("patches", _PATCH**2, tiles, outputs)  # the patches are no longer needed
        torch.bmm(values.view(_PATCH**2, tiles, channels), kernels_36CD, out=products)
        done = _space("values", _TILE**2, tiles * outputs)
        torch.mm(of_tiles, products.view(_PATCH**2, -1), out=done)
        done = done.view(_TILE, _TILE, batch, rows, across, outputs).permute(2, 3, 0, 4, 1, 5)
        place = y_NHWD[:, top:bottom].view(batch, rows, _TILE, across, _TILE, outputs)
        torch.add(done, bias_D, out=place)
    return y_NHWD.permute(0, 3, 1, 2)


_spaces = threading.local()


def _space(name: str, *shape: int) -> Tensor:
    """Return memory of this thread that the next part uses again.

    glibc gives large tensors back to the system, which fills new ones with zeros, page by page.
    """
    size = prod(shape)
    kept: Tensor | None = getattr(_spaces, name, None)
    if kept is None or kept.numel() < size:
        with torch.inference_mode(mode=False):  # it may be used outside of that mode later
            kept = torch.empty(size)
        setattr(_spaces, name, kept)
    return kept[:size].view(shape)


def _transforms() -> tuple[Tensor, Tensor, Tensor]:
    """Return what patches, kernels and tiles are multiplied by, both directions at once.

    Shape: (36, 36), (36, 9) and (16, 36).
    """
    points = np.array(_POINTS)
    patches, kernels = np.zeros((_PATCH, _PATCH)), np.zeros((_PATCH, 3))
    tiles = np.zeros((_TILE, _PATCH))
    for i, point in enumerate(points):
        others = np.delete(points, i)
        patches[i, :-1] = np.poly(others)[::-1]  # zero at all other points
        kernels[i] = point ** np.arange(3) / np.prod(point - others)
        tiles[:, i] = point ** np.arange(_TILE)
    patches[-1] = np.poly(points)[::-1]
    kernels[-1, -1] = tiles[-1, -1] = 1  # at infinity: the highest coefficients
    return _both_ways(patches), _both_ways(kernels), _both_ways(tiles)


def _both_ways(one: npt.NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(np.kron(one, one)).float()
