"""Matrices of linear layers in 8 bits, for inference: a fourth of float32's memory.

Each output channel, a row of the matrix, has a scale of its own:

    scale = max |row| / 127,    quantized = round(row / scale),    row = scale * quantized

So a row is off by half a scale at most. When the layer is called, the matrix is multiplied out for
this call alone.

C input channels, D output channels.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

LARGEST = 127  # symmetric: -128 is not used


class Int8Matrix(nn.Module):
    """How a matrix (D, C) is made of int8 (D, C) and of float32 scales (D,), and these of it."""

    def right_inverse(self, weight_DC: Tensor) -> tuple[Tensor, Tensor]:
        """Quantize a matrix: to the nearest step, halves to the even one, computed in float32."""
        weight_DC = weight_DC.float()
        scale_D = weight_DC.abs().amax(dim=1) / LARGEST
        scale_D = torch.where(scale_D > 0, scale_D, 1.0)  # of a row of zeros
        steps_DC = (weight_DC / scale_D[:, None]).round().clamp(-LARGEST, LARGEST)
        return steps_DC.to(torch.int8), scale_D

    def forward(self, quantized_DC: Tensor, scale_D: Tensor) -> Tensor:
        """Multiply a matrix out: in float32, then rounded to bfloat16, in which layers compute."""
        return (quantized_DC * scale_D[:, None]).to(torch.bfloat16)


def keep_in_int8(layer: nn.Module, device: torch.device) -> None:
    """Bring a linear layer's matrix to `device` and keep it there in 8 bits; skip other layers.

    It has to be frozen. A second call does nothing.
    """
    if isinstance(layer, nn.Linear) and not parametrize.is_parametrized(layer):
        layer.weight.data = layer.weight.data.to(device)
        parametrize.register_parametrization(layer, "weight", Int8Matrix(), unsafe=True)
