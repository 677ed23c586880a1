"""An autoencoder that makes few large tensors, for inference in float32 on a CPU.

Each new tensor of 100 MB costs a CPU more than the numbers in it: the system fills it with zeros,
page by page. So normalised activations go where the last ones were, or over what nobody else needs,
and what enlarges writes its phases where they belong.

B batch, C channels, D channels of the result, G groups, P pixels.
"""

from collections.abc import Sequence
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from components.backbones.scratch import scratch
from components.backbones.upsampling import EnlargingConvolution

_AT_ONCE = 2**19  # numbers: 2 MB, so that a part stays in the processor's cache


def write_over(network: nn.Module) -> None:
    """Let residual blocks that see no timestep, what enlarges, and a decoder's end do so.

    They compute the same. They cannot be recorded for an export, and need no gradients.
    """
    from diffusers.models.autoencoders.vae import Decoder
    from diffusers.models.resnet import ResnetBlock2D

    for module in network.modules():
        if isinstance(module, ResnetBlock2D) and _is_plain(module):
            module.forward = MethodType(_residual, module)  # type: ignore[method-assign]
        if isinstance(module, EnlargingConvolution):
            module.forward = MethodType(_enlarged, module)  # type: ignore[method-assign]
        if isinstance(module, Decoder) and isinstance(module.conv_norm_out, nn.GroupNorm):
            module.conv_norm_out.forward = MethodType(_activated, module.conv_norm_out)
            module.conv_act = nn.Identity()


def _is_plain(block: Any) -> bool:
    others = (block.time_emb_proj, block.upsample, block.downsample)
    is_silu = isinstance(block.nonlinearity, nn.SiLU)
    return others == (None, None, None) and block.output_scale_factor == 1 and is_silu


def _residual(block: Any, x_BCHW: Tensor, temb: None = None) -> Tensor:
    """Compute x + conv(silu(norm(conv(silu(norm(x)))))), with x convolved where widths differ."""
    del temb  # an autoencoder has no timestep
    hidden = block.conv1(_activated(block.norm1, x_BCHW))
    hidden = block.conv2(_activated(block.norm2, hidden, is_free=True))
    shortcut = x_BCHW if block.conv_shortcut is None else block.conv_shortcut(x_BCHW)
    done: Tensor = hidden.add_(shortcut)
    return done


def _activated(norm: nn.GroupNorm, x_BCHW: Tensor, *, is_free: bool = False) -> Tensor:
    """Return silu(norm(x)), written over x if that is free, or else into this thread's scratch."""
    if not x_BCHW.is_contiguous(memory_format=torch.channels_last):
        return F.silu(norm(x_BCHW), inplace=True)
    x_BPC = x_BCHW.permute(0, 2, 3, 1).flatten(1, 2)
    y_BPC = x_BPC if is_free else scratch("activated", *x_BPC.shape)
    scale_B1C, shift_B1C = _scale_and_shift(norm, x_BPC)
    for x, y in zip(_parts(x_BPC), _parts(y_BPC), strict=True):
        torch.addcmul(shift_B1C, x, scale_B1C, out=y)
        F.silu(y, inplace=True)
    batch, _, height, width = x_BCHW.shape
    return y_BPC.view(batch, height, width, -1).permute(0, 3, 1, 2)


def _scale_and_shift(norm: nn.GroupNorm, x_BPC: Tensor) -> tuple[Tensor, Tensor]:
    """Return what each channel is multiplied by, and what is added then."""
    batch, pixels, channels = x_BPC.shape
    mean_B1C = x_BPC.mean(1, keepdim=True)
    squares_B1C = torch.zeros_like(mean_B1C)
    for x in _parts(x_BPC):
        centred = torch.sub(x, mean_B1C, out=scratch("centred", *x.shape))
        squares_B1C += centred.square_().sum(1, keepdim=True)
    mean_BGC, square_BGC = (
        one.view(batch, norm.num_groups, -1) for one in (mean_B1C, squares_B1C / pixels)
    )
    mean_BG1 = mean_BGC.mean(2, keepdim=True)
    variance_BG1 = (square_BGC + (mean_BGC - mean_BG1).square()).mean(2, keepdim=True)
    scale_BGC = norm.weight.view(1, norm.num_groups, -1) * (variance_BG1 + norm.eps).rsqrt()
    shift_BGC = norm.bias.view(1, norm.num_groups, -1) - mean_BG1 * scale_BGC
    return scale_BGC.view(batch, 1, channels), shift_BGC.view(batch, 1, channels)


def _parts(x_BPC: Tensor) -> Sequence[Tensor]:
    return torch.split(x_BPC, max(1, _AT_ONCE // (x_BPC.shape[0] * x_BPC.shape[2])), dim=1)


def _enlarged(convolution: EnlargingConvolution, x_BCHW: Tensor) -> Tensor:
    """Give what the convolution gives, channels last: (B, C, H, W) -> (B, D, 2H, 2W)."""
    phases = convolution.phases(x_BCHW)
    batch, channels, height, width = phases[0].shape
    y_BDHW = x_BCHW.new_empty(batch, 2 * height, 2 * width, channels).permute(0, 3, 1, 2)
    for number, one in enumerate(phases):
        row, column = divmod(number, 2)
        y_BDHW[:, :, row::2, column::2] = one
    return y_BDHW
