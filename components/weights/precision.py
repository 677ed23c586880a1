"""In which numbers networks are kept and computed, in training and at inference.

`bf16`: matrices of frozen networks are stored in bfloat16, and generator, autoencoder,
discriminator and, at inference, the encoder compute in it. What trains stays float32 unless its
optimizer has `weights: bf16`. The gate, normalisations, losses and the layer that sees a picture
stay float32.

`int8`, at inference alone: as `bf16`, but matrices of the generator's linear layers are kept in 8
bits (`components.weights.int8`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:  # the command line's help shows the names alone
    import torch
    from torch import Tensor, nn

Precision = Literal["float32", "bf16"]
InferencePrecision = Literal["float32", "bf16", "int8"]


def computing(
    precision: InferencePrecision, device: torch.device
) -> contextlib.AbstractContextManager[Any]:
    """Return a context in which matrix products and convolutions are computed so."""
    import torch

    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def settle(
    parts: Iterable[nn.Module],
    precision: Precision,
    device: torch.device,
    *,
    trained: Precision = "float32",
) -> None:
    """Bring modules to `device` with each parameter in the numbers it is kept in, one by one.

    With `bf16`, frozen matrices become bfloat16: half of the memory. Matrices that train become
    what `trained` says, vectors (biases, scales of normalisations), which take no room, float32. A
    layer that sees a picture stays float32, and computes in it from now on.

    Each parameter is copied even where nothing changes: one that is mapped from a file may not be
    aligned, and a training writes in place. The old one is let go before the next one is made, so
    no network stands twice in memory. A second call changes no value. Of `parts` (those of a
    network: `network.modules()`), own parameters and buffers are settled, not those below.
    """
    for part in parts:
        kept: Precision = precision
        if precision == "bf16" and _sees_pictures(part):
            kept = "float32"
            part.forward = _InFloat32(part.forward)
        for parameter in part.parameters(recurse=False):
            dtype = _kept_in(parameter, trained if parameter.requires_grad else kept)
            parameter.data = parameter.data.to(device, dtype, copy=True)
        for name, buffer in part.named_buffers(recurse=False):
            setattr(part, name, buffer.to(device))


def _kept_in(parameter: nn.Parameter, precision: Precision) -> torch.dtype:
    import torch

    if not parameter.is_floating_point():
        return parameter.dtype
    is_small = precision == "bf16" and parameter.dim() > 1
    return torch.bfloat16 if is_small else torch.float32


def _sees_pictures(part: nn.Module) -> bool:
    """Return whether a layer is an autoencoder's first, which takes RGB.

    8 bits do not survive bfloat16: in its upper half, it rounds nearly every k / 255 up to the next
    multiple of 1 / 256. Faces came back 0.19 levels brighter, and TAESD3's encoder lost 0.075 dB of
    33.3 (0.165 dB on one face); with this layer in float32, it loses 0.006 dB.
    """
    from torch import nn

    return isinstance(part, nn.Conv2d | nn.Conv3d) and part.in_channels == 3


class _InFloat32:
    def __init__(self, forward: Any) -> None:
        self._forward = forward

    def __call__(self, picture: Tensor, *args: Any) -> Any:
        import torch

        with torch.autocast(picture.device.type, enabled=False):
            return self._forward(picture.float(), *args)
