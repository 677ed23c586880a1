import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.degradation.blur import Kernel, blur, gaussian_kernel
from components.images import Image

GOLDEN = Path(__file__).parents[2] / "golden"
ROUTES = {  # kernels that `blur` treats differently
    "nothing left after trimming": gaussian_kernel(41, 0.1, 0.1, 0.0),
    "a row and a column": gaussian_kernel(41, 6.0, 6.0, 0.0),
    "along the axes": gaussian_kernel(41, 8.0, 1.5, math.pi / 2),
    "small and oblique": gaussian_kernel(41, 1.8, 0.4, 0.7),
    "large and oblique": gaussian_kernel(41, 9.0, 2.5, -2.1),
    "thin and oblique": gaussian_kernel(41, 10.0, 0.1, 0.3),
}


def photograph(height: int, width: int, seed: int = 0) -> Image:
    """Draw something with edges, slopes and texture."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (5, 4, 3)).astype(np.float32)
    picture = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    picture[height // 3 : height // 2, width // 4 :] += 90
    noisy = picture + rng.normal(0, 25, picture.shape)
    return np.asarray(np.clip(noisy, 0, 255), dtype=np.uint8)


def by_the_book(image: Image, kernel: Kernel) -> npt.NDArray[np.float64]:
    """Correlate in float64: a sum over the kernel's places of shifted pictures."""
    down, along = kernel.shape[0] // 2, kernel.shape[1] // 2
    padded = np.pad(image.astype(np.float64), ((down, down), (along, along), (0, 0)), "reflect")
    height, width = image.shape[:2]
    total: npt.NDArray[np.float64] = np.zeros(image.shape)
    for y in range(kernel.shape[0]):
        for x in range(kernel.shape[1]):
            total += kernel[y, x] * padded[y : y + height, x : x + width]
    return total


def test_kernels_equal_the_references() -> None:
    golden = np.load(GOLDEN / "blur_kernels.npz")
    for expected, row in zip(golden["kernels"], golden["sigma_x_sigma_y_theta_iso"], strict=True):
        sigma_x, sigma_y, theta, _ = row
        np.testing.assert_allclose(
            gaussian_kernel(41, sigma_x, sigma_y, theta), expected, rtol=0, atol=1e-12
        )


def test_a_kernel_is_the_density_with_the_turned_covariance() -> None:
    sigma_x, sigma_y, angle = 3.0, 1.2, 0.8
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    precision = np.linalg.inv(turn @ np.diag([sigma_x**2, sigma_y**2]) @ turn.T)
    expected = np.empty((13, 13))
    for row in range(13):
        for column in range(13):
            place = np.array([column - 6.0, row - 6.0])
            expected[row, column] = math.exp(-0.5 * place @ precision @ place)
    np.testing.assert_allclose(
        gaussian_kernel(13, sigma_x, sigma_y, angle), expected / expected.sum(), atol=1e-15
    )


@pytest.mark.parametrize("name", ROUTES)
def test_every_way_to_blur_gives_the_pixels_of_a_plain_sum(name: str) -> None:
    image = photograph(72, 53)
    difference = np.abs(blur(image, ROUTES[name]) - by_the_book(image, ROUTES[name]))
    assert difference.max() < 0.002  # of 255


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(0, 20).map(lambda radius: 2 * radius + 1),
    sigma_x=st.floats(0.1, 15),
    sigma_y=st.floats(0.1, 15),
    angle=st.floats(-math.pi, math.pi),
    height=st.integers(48, 130),
    width=st.integers(48, 130),
)
def test_any_gaussian_gives_the_pixels_of_filter2d(
    size: int, sigma_x: float, sigma_y: float, angle: float, height: int, width: int
) -> None:
    image = photograph(height, width, seed=size)
    kernel = gaussian_kernel(size, sigma_x, sigma_y, angle)
    expected = cv2.filter2D(image.astype(np.float32), -1, kernel)
    assert np.abs(blur(image, kernel) - expected).max() < 0.002


@pytest.mark.parametrize("name", ROUTES)
def test_a_picture_of_one_colour_stays_the_same(name: str) -> None:
    image = np.full((60, 64, 3), (10, 128, 250), np.uint8)
    np.testing.assert_allclose(blur(image, ROUTES[name]), image, atol=0.01)


def test_bytes_and_floats_give_the_same_picture() -> None:
    image = photograph(64, 64)
    for kernel in ROUTES.values():
        as_bytes, as_floats = blur(image, kernel), blur(image.astype(np.float32), kernel)
        np.testing.assert_allclose(as_bytes, as_floats, atol=1e-3)


def test_a_result_is_not_overwritten_by_the_next_call() -> None:
    image, kernel = photograph(64, 64), ROUTES["large and oblique"]
    first = blur(image, kernel)
    kept = first.copy()
    blur(photograph(64, 64, seed=1), kernel)
    np.testing.assert_array_equal(first, kept)


def test_threads_do_not_disturb_each_other() -> None:
    images = [photograph(90, 80, seed) for seed in range(12)]
    kernel = ROUTES["large and oblique"]
    alone = [blur(image, kernel) for image in images]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda image: blur(image, kernel), images * 4))
    for number, result in enumerate(together):
        np.testing.assert_array_equal(result, alone[number % len(images)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((40, 1.0, 1.0, 0.0), "its size must be odd; got 40"),
        ((-1, 1.0, 1.0, 0.0), "its size must be odd; got -1"),
        ((41, 0.0, 1.0, 0.0), "sigmas above 0; got 0.0 and 1.0"),
    ],
)
def test_an_impossible_kernel_is_refused(
    arguments: tuple[int, float, float, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        gaussian_kernel(*arguments)
