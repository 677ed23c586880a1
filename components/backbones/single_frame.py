"""Autoencoders of videos that are given pictures: one frame each (METHOD, section 8)."""

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_SHORTEST = 1e-12  # `F.normalize` divides by no less


def expect_single_frames(vae: nn.Module) -> None:
    """Let a Wan/Qwen autoencoder treat its input as one frame, and normalise it quickly.

    A causal 3-D convolution of one frame is a 2-D convolution: the frames before the first are
    zeros, so only the last temporal slice of the weight meets data. Parameters keep their names and
    shapes, so the published layout still loads and saves.
    """
    from diffusers.models.autoencoders.autoencoder_kl_qwenimage import (
        QwenImageCausalConv3d,
        QwenImageRMS_norm,
    )

    for module in vae.modules():
        if isinstance(module, QwenImageCausalConv3d):
            module.forward = MethodType(_single_frame, module)  # type: ignore[method-assign]
        if isinstance(module, QwenImageRMS_norm):
            module.forward = MethodType(_normalized, module)  # type: ignore[method-assign]


def keep_last_slices(network: nn.Module) -> None:
    """Leave such convolutions the slice of their weights that meets data, for inference.

    It then lies as a 2-D convolution wants it, which a view of the whole does not.
    """
    from diffusers.models.autoencoders.autoencoder_kl_qwenimage import QwenImageCausalConv3d

    for module in network.modules():
        if isinstance(module, QwenImageCausalConv3d):
            last = module.weight.detach()[:, :, -1:].contiguous()
            module.weight = nn.Parameter(last, requires_grad=False)


def _single_frame(convolution: Any, x: Tensor, cache_x: Tensor | None = None) -> Tensor:
    if x.shape[2] != 1 or cache_x is not None:
        raise ValueError(f"a picture has one frame; got {x.shape[2]}")
    padded = F.pad(x.squeeze(2), [int(side) for side in convolution._padding[:4]])
    weight = convolution.weight[:, :, -1]
    flat = F.conv2d(padded, weight, convolution.bias, stride=convolution.stride[1:])
    return flat.unsqueeze(2)


def _normalized(norm: Any, x: Tensor) -> Tensor:
    """Divide by the length over channels, as `F.normalize` does.

    PyTorch's norm over any dimension but the last takes 1.5 times as long on a CPU for many
    channels, and 40 times for few.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    squares = wide.square().sum(1 if norm.channel_first else -1, keepdim=True)
    shrunk = wide * squares.clamp_min(_SHORTEST**2).rsqrt()
    normalized: Tensor = shrunk.to(x.dtype) * norm.scale * norm.gamma + norm.bias
    return normalized
