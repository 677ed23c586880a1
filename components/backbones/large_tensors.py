"""An autoencoder that makes few large tensors, for inference in float32 on a CPU.

Each new tensor of 100 MB costs a CPU more than the numbers in it: the system fills it with zeros,
page by page. So activations and sums are written over tensors that nobody else needs, and what
enlarges writes its phases where they belong.
"""

from types import MethodType
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from components.backbones.upsampling import EnlargingConvolution


def write_over(network: nn.Module) -> None:
    """Let residual blocks that see no timestep, and what enlarges, do so.

    They compute the same. They cannot be recorded for an export, and need no gradients.
    """
    from diffusers.models.resnet import ResnetBlock2D

    for module in network.modules():
        if isinstance(module, ResnetBlock2D) and _is_plain(module):
            module.forward = MethodType(_residual, module)  # type: ignore[method-assign]
        if isinstance(module, EnlargingConvolution):
            module.forward = MethodType(_enlarged, module)  # type: ignore[method-assign]


def _is_plain(block: Any) -> bool:
    others = (block.time_emb_proj, block.upsample, block.downsample)
    is_silu = isinstance(block.nonlinearity, nn.SiLU)
    return others == (None, None, None) and block.output_scale_factor == 1 and is_silu


def _residual(block: Any, x_BCHW: Tensor, temb: None = None) -> Tensor:
    """Compute x + conv(silu(norm(conv(silu(norm(x)))))), with x convolved where widths differ."""
    del temb  # an autoencoder has no timestep
    hidden = block.conv1(F.silu(block.norm1(x_BCHW), inplace=True))
    hidden = block.conv2(F.silu(block.norm2(hidden), inplace=True))
    shortcut = x_BCHW if block.conv_shortcut is None else block.conv_shortcut(x_BCHW)
    done: Tensor = hidden.add_(shortcut)
    return done


def _enlarged(convolution: EnlargingConvolution, x_BCHW: Tensor) -> Tensor:
    """Give what the convolution gives, channels last: (B, C, H, W) -> (B, D, 2H, 2W)."""
    phases = convolution.phases(x_BCHW)
    batch, channels, height, width = phases[0].shape
    y_BDHW = x_BCHW.new_empty(batch, 2 * height, 2 * width, channels).permute(0, 3, 1, 2)
    for number, one in enumerate(phases):
        row, column = divmod(number, 2)
        y_BDHW[:, :, row::2, column::2] = one
    return y_BDHW
