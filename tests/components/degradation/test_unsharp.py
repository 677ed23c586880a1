import cv2
import numpy as np
import numpy.typing as npt
import pytest

from components.degradation.unsharp import UnsharpParams, sharpen
from components.images import Image

Floats = npt.NDArray[np.float64]


def edge() -> Image:
    image = np.full((80, 80, 3), 90, np.uint8)
    image[:, 40:] = 150
    return np.asarray(cv2.GaussianBlur(image, (9, 9), 0), dtype=np.uint8)


def gaussian(size: int) -> Floats:
    sigma = 0.3 * ((size - 1) * 0.5 - 1) + 0.8
    weights: Floats = np.exp(-((np.arange(size) - size // 2) ** 2) / (2 * sigma**2))
    normalized: Floats = weights / weights.sum()
    return normalized


def blurred(picture: Floats, size: int) -> Floats:
    for axis in (0, 1):
        pad = [(0, 0)] * 3
        pad[axis] = (size // 2, size // 2)
        padded = np.pad(picture, pad, "reflect")
        length = picture.shape[axis]
        picture = np.zeros_like(picture)
        for start, weight in enumerate(gaussian(size)):
            picture += float(weight) * padded.take(range(start, start + length), axis)
    return picture


@pytest.mark.parametrize(("size", "mask_size"), [(51, 51), (81, 83), (15, 11)])
def test_it_equals_the_published_formula(size: int, mask_size: int) -> None:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (24, 24, 3), np.uint8)
    hq = np.asarray(cv2.resize(coarse, (100, 90)), dtype=np.uint8)
    image = hq.astype(np.float64) / 255
    residual = image - blurred(image, size)
    soft_mask = blurred((np.abs(residual) * 255 > 10).astype(np.float64), mask_size)
    sharp = np.clip(image + 0.5 * residual, 0, 1)
    expected = 255 * (soft_mask * sharp + (1 - soft_mask) * image)

    got = sharpen(hq, UnsharpParams(kernel_size=size, mask_kernel_size=mask_size))
    assert np.abs(got - expected).max() < 0.51  # rounded to 8 bits


def test_a_hard_edge_equals_the_references_masked_copy() -> None:
    rng = np.random.default_rng(1)
    coarse = rng.integers(0, 256, (24, 24, 3), np.uint8)
    hq = np.asarray(cv2.resize(coarse, (130, 120)), dtype=np.uint8)
    residual = hq - blurred(hq.astype(np.float64), 101)
    is_sharpened = np.abs(residual) > 10
    expected = np.where(is_sharpened, np.clip(hq + 0.5 * residual, 0, 255), hq)
    got = sharpen(hq, UnsharpParams(kernel_size=101, mask_kernel_size=1))
    is_clear = np.abs(np.abs(residual) - 10) > 1e-3  # float32 may decide the others differently
    assert is_clear.mean() > 0.99
    assert 0.3 < is_sharpened.mean() < 0.99
    assert np.abs(got - expected)[is_clear].max() < 0.51  # rounded to 8 bits


def test_an_edge_becomes_steeper_and_a_picture_of_one_colour_stays() -> None:
    hq = edge()
    sharp = sharpen(hq, UnsharpParams())
    steepest = [int(np.diff(image[40, :, 0].astype(int)).max()) for image in (hq, sharp)]
    assert steepest[1] > steepest[0]
    plain = np.full((80, 80, 3), 77, np.uint8)
    np.testing.assert_array_equal(sharpen(plain, UnsharpParams()), plain)


def test_details_below_the_threshold_stay_the_same() -> None:
    hq = edge()
    np.testing.assert_array_equal(sharpen(hq, UnsharpParams(threshold=60)), hq)


def test_an_even_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match="its size must be odd"):
        UnsharpParams(kernel_size=50)
