"""Pixel loss and edge map against plain NumPy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import correlate

from components.losses.pixel import PixelLoss, PixelRange, sobel

SOBEL = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], dtype=np.float64)


def pictures(seed: int, *, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return low + (high - low) * torch.rand(2, 3, 12, 10, generator=generator)


@pytest.mark.parametrize("pixel_range", ["unit", "signed"])
def test_it_is_the_mean_squared_difference_in_the_range(pixel_range: PixelRange) -> None:
    restored, hq = pictures(1, low=-0.5, high=1.5), pictures(2)
    x, y = restored.double().numpy(), hq.double().numpy()
    if pixel_range == "unit":
        expected = np.mean((np.clip(x, 0, 1) - y) ** 2)
    else:
        expected = np.mean(((2 * x - 1) - (2 * y - 1)) ** 2)
    assert PixelLoss(pixel_range)(restored, hq).item() == pytest.approx(expected, rel=1e-5)


def test_outside_the_range_only_the_unclamped_loss_has_a_gradient() -> None:
    hq = pictures(1)
    too_bright = torch.full_like(hq, 1.2).requires_grad_()
    PixelLoss("unit")(too_bright, hq).backward()
    assert too_bright.grad is not None
    assert not too_bright.grad.any()
    PixelLoss("signed")(too_bright, hq).backward()
    assert too_bright.grad.gt(0).all()


def test_sobel_is_the_gradient_strength_of_the_grey_picture() -> None:
    image = pictures(3).double()
    edges = sobel(image)
    assert edges.shape == (2, 1, 12, 10)
    for picture, found in zip(image.numpy(), edges.numpy(), strict=True):
        grey = 0.2989 * picture[0] + 0.587 * picture[1] + 0.114 * picture[2]
        gx = correlate(grey, SOBEL, mode="constant")
        gy = correlate(grey, SOBEL.T, mode="constant")
        np.testing.assert_allclose(found[0], np.sqrt(gx**2 + gy**2 + 1e-6), atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), shift=st.floats(-0.3, 0.3))
def test_a_brighter_picture_has_the_same_edges_inside(seed: int, shift: float) -> None:
    image = pictures(seed, low=0.3, high=0.7).double()
    inner = (..., slice(1, -1), slice(1, -1))
    torch.testing.assert_close(sobel(image + shift)[inner], sobel(image)[inner])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_the_loss_is_zero_for_equal_pictures_and_symmetric(seed: int) -> None:
    first, second = pictures(seed), pictures(seed + 1)
    loss = PixelLoss("unit")
    assert loss(first, first).item() == 0
    assert loss(first, second).item() == loss(second, first).item() > 0
