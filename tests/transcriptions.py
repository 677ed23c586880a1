"""Published networks and steps of metrics, written out: what tests compare the metrics with.

Plain NumPy and torch's functions, with the weights of a published file by the names that they have
there. Nothing is imported from `components`.

A picture is a uint8 array (H, W, 3), RGB.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

Weights = Mapping[str, Tensor]


def mean_reduced(picture: np.ndarray, size: int) -> np.ndarray:
    """Shrink a square picture: each pixel is the mean of the area that it covers, rounded."""
    edges = np.linspace(0, len(picture), size + 1)
    pixels = np.arange(len(picture))
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    share = covered.clip(0) / (len(picture) / size)
    rows = np.einsum("yh,hwc->ywc", share, picture.astype(np.float64), optimize=True)
    reduced = np.einsum("xw,ywc->yxc", share, rows, optimize=True)
    return np.round(reduced).astype(np.uint8)


def warped(picture: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
    """Move a picture by `matrix` (2, 3), bilinearly; what comes from outside of it is black."""
    inverse = np.linalg.inv(np.vstack([matrix, (0, 0, 1)]))
    y, x = np.indices((size, size))
    from_x, from_y, _ = np.einsum("ij,jyx->iyx", inverse, np.stack([x, y, np.ones_like(x)]))
    framed = np.pad(picture.astype(np.float64), ((1, 1), (1, 1), (0, 0)))
    left, top = np.floor(from_x).astype(int), np.floor(from_y).astype(int)
    right_share, low_share = (from_x - left)[..., None], (from_y - top)[..., None]

    def at(row: np.ndarray, column: np.ndarray) -> np.ndarray:
        last = len(picture) + 1
        return framed[(row + 1).clip(0, last), (column + 1).clip(0, last)]

    upper = at(top, left) * (1 - right_share) + at(top, left + 1) * right_share
    lower = at(top + 1, left) * (1 - right_share) + at(top + 1, left + 1) * right_share
    return np.round(upper * (1 - low_share) + lower * low_share).astype(np.uint8)


def _convolved(weights: Weights, name: str, x: Tensor, stride: int = 1) -> Tensor:
    """Convolve; a kernel of one channel is depthwise, and one of 3 x 3 is padded."""
    kernel = weights[f"{name}.weight"]
    groups = x.shape[1] if kernel.shape[1] == 1 else 1
    padding = 1 if kernel.shape[2] == 3 else 0
    return F.conv2d(x, kernel, weights.get(f"{name}.bias"), stride, padding, 1, groups)


def _normalised(weights: Weights, name: str, x: Tensor) -> Tensor:
    """Normalise a batch by the statistics of the training."""
    parts = (weights[f"{name}.{part}"] for part in ("running_mean", "running_var"))
    return F.batch_norm(x, *parts, weights[f"{name}.weight"], weights[f"{name}.bias"])


# MobileFaceNet (Chen et al. 2018, table 1) in the form of foamliu/MobileFaceNet: ReLU6 instead of
# PReLU. Of each row: how often it widens, how many blocks, the stride of the first.
_MOBILE_FACE_NET = ((2, 5, 2), (4, 1, 2), (2, 6, 1), (4, 1, 2), (2, 2, 1))


def mobile_face_net(weights: Weights, faces: Tensor) -> Tensor:
    """Return the embeddings (B, 128) of faces (B, 3, 112, 112)."""
    x = F.relu6(_normalised(weights, "conv1.1", _convolved(weights, "conv1.0", faces, 2)))
    x = _convolved(weights, "dw_conv.depthwise", x)
    x = F.relu(_normalised(weights, "dw_conv.bn1", x))
    x = _convolved(weights, "dw_conv.pointwise", x)
    x = F.relu(_normalised(weights, "dw_conv.bn2", x))
    strides = [
        (stride if place == 0 else 1)
        for _, count, stride in _MOBILE_FACE_NET
        for place in range(count)
    ]
    for place, stride in enumerate(strides):
        x = _inverted_residual(weights, f"features.{place}.conv", x, stride)
    x = F.relu6(_normalised(weights, "conv2.1", _convolved(weights, "conv2.0", x)))
    x = _normalised(weights, "gdconv.bn", _convolved(weights, "gdconv.depthwise", x))
    return _normalised(weights, "bn", _convolved(weights, "conv3", x)).flatten(1)


def _inverted_residual(weights: Weights, name: str, x: Tensor, stride: int) -> Tensor:
    """Widen by 1 x 1, convolve each channel by 3 x 3, narrow by 1 x 1 (Sandler et al. 2018)."""
    y = F.relu6(_normalised(weights, f"{name}.0.1", _convolved(weights, f"{name}.0.0", x)))
    y = F.relu6(_normalised(weights, f"{name}.1.1", _convolved(weights, f"{name}.1.0", y, stride)))
    y = _normalised(weights, f"{name}.3", _convolved(weights, f"{name}.2", y))
    return x + y if stride == 1 and x.shape == y.shape else y


def pfld(weights: Weights, faces: Tensor) -> Tensor:
    """Return 68 points (B, 68, 2) in [0, 1] of faces (B, 3, 112, 112).

    PFLD (Guo et al. 2019, table 1) in the form of cunjian/pytorch_face_landmark.
    """
    x = F.relu(_normalised(weights, "bn1", _convolved(weights, "conv1", faces, 2)))
    x = _normalised(weights, "dw_bn", _convolved(weights, "dw_pool", x))
    x = F.relu(_convolved(weights, "conv1_extra", x))
    x = _bottleneck(weights, "conv3_1", x, 2)
    for number in range(2, 6):
        x = x + _bottleneck(weights, f"block3_{number}", x)
    x = _bottleneck(weights, "conv5_1", _bottleneck(weights, "conv4_1", x, 2))
    for number in range(2, 7):
        x = x + _bottleneck(weights, f"block5_{number}", x)
    fine = _bottleneck(weights, "conv6_1", x)
    middle = F.relu(_normalised(weights, "conv7.1", _convolved(weights, "conv7.0", fine, 2)))
    coarse = F.relu(_convolved(weights, "conv8", middle))
    scales = torch.cat([part.mean((2, 3)) for part in (fine, middle, coarse)], dim=1)
    return F.linear(scales, weights["fc.weight"], weights["fc.bias"]).unflatten(1, (68, 2))


def _bottleneck(weights: Weights, name: str, x: Tensor, stride: int = 1) -> Tensor:
    y = F.relu(_normalised(weights, f"{name}.conv.1", _convolved(weights, f"{name}.conv.0", x)))
    y = _convolved(weights, f"{name}.conv.3", y, stride)
    y = F.relu(_normalised(weights, f"{name}.conv.4", y))
    return _normalised(weights, f"{name}.conv.7", _convolved(weights, f"{name}.conv.6", y))
