"""Matrices in 8 bits, against a transcription in NumPy."""

from typing import Any

import hypothesis.extra.numpy as drawn
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from components.backbones.conditional_lora import ConditionalLinear
from components.weights.int8 import keep_in_int8
from components.weights.lora import LoraParams

CPU = torch.device("cpu")
Floats = npt.NDArray[np.float32]


def quantized(weight_DC: Floats) -> tuple[npt.NDArray[np.int8], Floats]:
    """Round each row to 255 steps, the largest number of the row to the last of them."""
    steps, scales = np.zeros(weight_DC.shape, np.int8), np.ones(len(weight_DC), np.float32)
    for row, numbers in enumerate(weight_DC):
        largest = np.abs(numbers).max()
        if largest / np.float32(127) > 0:
            scales[row] = largest / np.float32(127)
        steps[row] = np.clip(np.rint(numbers / scales[row]), -127, 127)
    return steps, scales


def as_bfloat16(numbers: Floats) -> Floats:
    """Round to the upper half of a float32's bits, halves to the even one."""
    bits = np.ascontiguousarray(numbers).view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16 << 16
    return rounded.astype(np.uint32).view(np.float32)


def kept_in_8_bits(weight_DC: Floats) -> nn.Linear:
    layer = nn.Linear(weight_DC.shape[1], weight_DC.shape[0], bias=False)
    layer.weight = nn.Parameter(torch.from_numpy(weight_DC), requires_grad=False)
    keep_in_int8(layer, CPU)
    return layer


def stored(layer: nn.Module) -> list[npt.NDArray[Any]]:
    """Return steps and scales."""
    state = layer.state_dict()
    return [state[f"parametrizations.weight.original{number}"].numpy() for number in (0, 1)]


numbers = st.floats(-1e4, 1e4, width=32, allow_subnormal=False)
matrices = drawn.arrays(np.float32, drawn.array_shapes(min_dims=2, max_dims=2), elements=numbers)


@settings(deadline=None)
@given(weight_DC=matrices, data=st.data())
def test_a_layer_is_off_by_half_a_scale_times_the_sum_of_its_inputs(
    weight_DC: Floats, data: st.DataObject
) -> None:
    layer = kept_in_8_bits(weight_DC)
    steps, scales = quantized(weight_DC)
    found_steps, found_scales = stored(layer)
    assert found_steps.dtype == np.int8
    np.testing.assert_array_equal(found_steps, steps)
    np.testing.assert_array_equal(found_scales, scales)
    x = data.draw(drawn.arrays(np.float64, weight_DC.shape[1], elements=st.floats(-100, 100)))
    exact, kept = weight_DC.astype(float) @ x, (steps * scales[:, None].astype(float)) @ x
    rounding = 127 * 2.0**-23  # of the division, of the largest step
    assert (np.abs(kept - exact) <= (0.5 + rounding) * scales * np.abs(x).sum() + 1e-9).all()


@settings(deadline=None)
@given(weight_DC=matrices)
def test_a_matrix_is_multiplied_out_in_float32_and_rounded_to_bfloat16(weight_DC: Floats) -> None:
    steps, scales = quantized(weight_DC)
    weight = kept_in_8_bits(weight_DC).weight
    assert weight.dtype == torch.bfloat16
    expected = as_bfloat16(steps * scales[:, None])
    np.testing.assert_array_equal(weight.float().numpy(), expected)


def test_rows_have_scales_of_their_own() -> None:
    layer = kept_in_8_bits(np.array([[1, -127], [0.01, 0.002], [0, 0]], np.float32))
    steps, scales = stored(layer)
    assert steps.tolist() == [[1, -127], [127, 25], [0, 0]]
    np.testing.assert_allclose(scales, [1, 0.01 / 127, 1], rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_computes_as_one_of_its_rounded_matrix_and_keeps_a_fourth(
    dtype: torch.dtype,
) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(64, 48).to(dtype).requires_grad_(requires_grad=False)
    keep_in_int8(layer, CPU)
    matrix, scales = stored(layer)
    assert (matrix.nbytes, scales.nbytes) == (48 * 64, 48 * 4)
    keep_in_int8(layer, CPU)  # changes nothing
    np.testing.assert_array_equal(stored(layer)[0], matrix)
    x = torch.randn(5, 64)
    with torch.autocast("cpu", torch.bfloat16):
        expected = nn.functional.linear(x, layer.weight, layer.bias)
        assert torch.equal(layer(x), expected)


def test_low_rank_parts_for_the_condition_stay_beside_the_matrix() -> None:
    torch.manual_seed(0)
    plain = nn.Linear(16, 8).requires_grad_(requires_grad=False)
    layer = ConditionalLinear(plain, LoraParams(rank=2, alpha=2))
    nn.init.normal_(layer.lora_B)
    layer.requires_grad_(requires_grad=False)
    x = torch.randn(3, 4, 16)
    expected = layer(x)
    keep_in_int8(layer, CPU)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(x).float()
    assert 0 < float((found - expected).abs().max()) < 0.05 * float(expected.abs().max())


def test_other_layers_stay_as_they_are() -> None:
    for layer in (nn.Conv2d(3, 4, 3), nn.LayerNorm(4), nn.Embedding(3, 4)):
        before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
        keep_in_int8(layer, CPU)
        after = layer.state_dict()
        assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
        assert len(after) == len(before)
