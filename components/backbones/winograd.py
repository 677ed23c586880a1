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

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from components.backbones.scratch import scratch

_POINTS = (0, 0.5**0.5, -(0.5**0.5), 2**0.5, -(2**0.5))
TILE, _PATCH = 4, 6  # pixels a side
_AT_ONCE = 4 * 2**20  # numbers: 16 MB, so that a part stays in the processor's cache


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
    across = width // TILE
    y_NHWD = x_NHWC.new_empty(batch, height, width, outputs)
    row = _PATCH**2 * batch * across * max(channels, outputs)  # numbers of one row of tiles
    at_once = max(1, _AT_ONCE // row)
    for first in range(0, height // TILE, at_once):
        rows = min(at_once, height // TILE - first)
        tiles = batch * rows * across
        top, bottom = first * TILE, (first + rows) * TILE
        seen = bordered(x_NHWC, top, bottom)
        seen = seen.unfold(1, _PATCH, TILE).unfold(2, _PATCH, TILE).permute(4, 5, 0, 1, 2, 3)
        patches = scratch("patches", _PATCH**2, tiles * channels)
        patches.view(seen.shape).copy_(seen)
        values = scratch("values", _PATCH**2, tiles * channels)
        torch.mm(of_patches, patches, out=values)
        products = scratch("patches", _PATCH**2, tiles, outputs)  # the patches are no longer needed
        torch.bmm(values.view(_PATCH**2, tiles, channels), kernels_36CD, out=products)
        done = scratch("values", TILE**2, tiles * outputs)
        torch.mm(of_tiles, products.view(_PATCH**2, -1), out=done)
        done = done.view(TILE, TILE, batch, rows, across, outputs).permute(2, 3, 0, 4, 1, 5)
        place = y_NHWD[:, top:bottom].view(batch, rows, TILE, across, TILE, outputs)
        torch.add(done, bias_D, out=place)
    return y_NHWD.permute(0, 3, 1, 2)


def bordered(x_NHWC: Tensor, top: int, bottom: int) -> Tensor:
    """Copy some rows of a picture, with a border of one pixel, into this thread's scratch.

    The border is what is beside the rows, or zeros at the edges of the picture.
    """
    batch, height, width, channels = x_NHWC.shape
    seen = scratch("bordered", batch, bottom - top + 2, width + 2, channels)
    seen[:, :, [0, -1]] = 0
    first, last = max(0, top - 1), min(height, bottom + 1)
    above = first - (top - 1)
    seen[:, :above] = 0
    seen[:, above + last - first :] = 0
    seen[:, above : above + last - first, 1:-1] = x_NHWC[:, first:last]
    return seen


def _transforms() -> tuple[Tensor, Tensor, Tensor]:
    """Return what patches, kernels and tiles are multiplied by, both directions at once.

    Shape: (36, 36), (36, 9) and (16, 36).
    """
    points = np.array(_POINTS)
    patches, kernels = np.zeros((_PATCH, _PATCH)), np.zeros((_PATCH, 3))
    tiles = np.zeros((TILE, _PATCH))
    for i, point in enumerate(points):
        others = np.delete(points, i)
        patches[i, :-1] = np.poly(others)[::-1]  # zero at all other points
        kernels[i] = point ** np.arange(3) / np.prod(point - others)
        tiles[:, i] = point ** np.arange(TILE)
    patches[-1] = np.poly(points)[::-1]
    kernels[-1, -1] = tiles[-1, -1] = 1  # at infinity: the highest coefficients
    return _both_ways(patches), _both_ways(kernels), _both_ways(tiles)


def _both_ways(one: npt.NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(np.kron(one, one)).float()
