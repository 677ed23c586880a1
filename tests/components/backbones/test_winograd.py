"""Convolutions on a CPU with fewer multiplications."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from components.backbones import winograd
from components.backbones.winograd import bordered, convolve, transformed_kernels


def made(channels: int, outputs: int, **options: int) -> nn.Conv2d:
    torch.manual_seed(channels + 1000 * outputs)
    return nn.Conv2d(channels, outputs, 3, **{"padding": 1, **options}).requires_grad_(False)


def exact(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    weight, bias = convolution.weight.double(), convolution.bias
    assert bias is not None
    return nn.functional.conv2d(x.double(), weight, bias.double(), padding=1)


@settings(deadline=None)
@given(height=st.integers(1, 7), part=st.tuples(st.integers(0, 7), st.integers(0, 7)).map(sorted))
def test_a_part_of_a_picture_has_what_is_beside_it(height: int, part: list[int]) -> None:
    top, bottom = (min(one, height) for one in part)
    x_NHWC = torch.randn(2, height, 5, 3)
    whole = nn.functional.pad(x_NHWC, (0, 0, 1, 1, 1, 1))
    bordered(torch.randn(2, 9, 9, 4), 0, 9)  # what lay in that memory before is of no concern
    assert torch.equal(bordered(x_NHWC, top, bottom), whole[:, top : bottom + 2])


@settings(deadline=None)
@given(
    batch=st.integers(1, 3),
    channels=st.integers(1, 9),
    outputs=st.integers(1, 9),
    down=st.integers(1, 6),
    across=st.integers(1, 6),
    is_last=st.booleans(),
)
def test_tiles_are_those_of_the_convolution(
    batch: int, channels: int, outputs: int, down: int, across: int, is_last: bool
) -> None:
    convolution = made(channels, outputs)
    x = torch.randn(batch, channels, 4 * down, 4 * across)
    if is_last:
        x = x.contiguous(memory_format=torch.channels_last)
    assert convolution.bias is not None
    found = convolve(x, transformed_kernels(convolution.weight), convolution.bias)
    torch.testing.assert_close(found.double(), exact(convolution, x), atol=3e-5, rtol=0)


def test_wide_channels_and_parts_of_rows_round_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd, "_AT_ONCE", 36 * 256 * 10 * 3)  # 3 rows of 10 tiles: 3, 3, 2
    convolution = made(256, 256)
    x = torch.randn(1, 256, 32, 40)
    expected = exact(convolution, x)
    assert convolution.bias is not None
    found = convolve(x, transformed_kernels(convolution.weight), convolution.bias)
    error, own = (one.double() - expected for one in (found, convolution(x)))
    assert float(error.abs().max()) < 2e-5 * float(expected.std())
    assert float(error.square().mean().sqrt()) < 10 * float(own.square().mean().sqrt())
    assert found.is_contiguous(memory_format=torch.channels_last)
