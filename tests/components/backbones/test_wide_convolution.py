"""Which manner of convolving a wide convolution takes, and that each is the same function."""

import pytest
import torch
from torch import nn

from components.backbones import wide_convolution
from components.backbones.wide_convolution import WideConvolution, use_wide_convolutions


def made(channels: int, outputs: int, **options: int) -> nn.Conv2d:
    torch.manual_seed(channels + 1000 * outputs)
    return nn.Conv2d(channels, outputs, 3, **{"padding": 1, **options}).requires_grad_(False)


@pytest.mark.parametrize("is_last", [False, True])
@pytest.mark.parametrize(
    ("shape", "uses_tiles"),
    [((1, 16, 16), False), ((4, 8, 8), False), ((2, 5, 7), False), ((1, 32, 36), True)],
)
def test_small_and_large_pictures_are_convolved_in_a_manner_of_their_own(
    shape: tuple[int, int, int], uses_tiles: bool, is_last: bool
) -> None:
    convolution = made(256, 288)
    batch, height, width = shape
    x = torch.randn(batch, 256, height, width)
    expected = convolution.double()(x.double())
    convolution.float()
    if is_last:
        convolution.to(memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last)
    wide = WideConvolution(convolution)
    found = wide(x)
    assert (wide._kernels_36CD is not None) == uses_tiles
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert not torch.equal(found, convolution(x))  # its last bits are its own
    torch.testing.assert_close(found.double(), expected, atol=3e-5, rtol=0)


@pytest.mark.parametrize(
    ("shape", "numbers"),
    [
        ((34, 32), torch.float32),
        ((32, 38), torch.float32),
        ((28, 64), torch.float32),
        ((32, 32), torch.bfloat16),
        ((16, 16), torch.bfloat16),
    ],
)
def test_pictures_that_do_not_suit_go_through_the_convolution_itself(
    shape: tuple[int, int], numbers: torch.dtype
) -> None:
    convolution = made(256, 256).to(numbers)
    x = torch.randn(1, 256, *shape, dtype=numbers)
    assert torch.equal(WideConvolution(convolution)(x), convolution(x))


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
    assert use_wide_convolutions(network)
    assert not use_wide_convolutions(nn.Sequential(made(256, 255)))
    replaced = [isinstance(one, wide_convolution.WideConvolution) for one in network]
    assert replaced == [True] + 7 * [False]
