"""Convolutions on a CPU with fewer multiplications."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from components.backbones import winograd
from components.backbones.winograd import WinogradConvolution, convolve, transformed_kernels


def made(channels: int, outputs: int, **options: int) -> nn.Conv2d:
    torch.manual_seed(channels + 1000 * outputs)
    return nn.Conv2d(channels, outputs, 3, **{"padding": 1, **options}).requires_grad_(False)


def exact(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    weight, bias = convolution.weight.double(), convolution.bias
    assert bias is not None
    return nn.functional.conv2d(x.double(), weight, bias.double(), padding=1)


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
    found = WinogradConvolution(convolution)(x)
    error, own = (one.double() - expected for one in (found, convolution(x)))
    assert float(error.abs().max()) < 2e-5 * float(expected.std())
    assert float(error.square().mean().sqrt()) < 10 * float(own.square().mean().sqrt())
    assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("shape", "numbers"),
    [
        ((34, 32), torch.float32),
        ((32, 38), torch.float32),
        ((28, 64), torch.float32),
        ((32, 32), torch.bfloat16),
    ],
)
def test_pictures_that_do_not_suit_go_through_the_convolution_itself(
    shape: tuple[int, int], numbers: torch.dtype
) -> None:
    convolution = made(256, 256).to(numbers)
    x = torch.randn(1, 256, *shape, dtype=numbers)
    assert torch.equal(WinogradConvolution(convolution)(x), convolution(x))


def test_only_wide_convolutions_that_keep_the_size_are_replaced() -> None:
    network = nn.Sequential(
        made(256, 256),
        made(256, 255),
        made(256, 256, stride=2),
        made(256, 256, padding=0),
        made(256, 256, dilation=2),
        made(256, 256, groups=2),
        nn.Conv2d(256, 256, 1),
        nn.Conv2d(256, 256, 3, padding=1, bias=False),
    )
    assert winograd.use_winograd(network)
    assert not winograd.use_winograd(nn.Sequential(made(256, 255)))
    replaced = [isinstance(one, WinogradConvolution) for one in network]
    assert replaced == [True] + 7 * [False]
