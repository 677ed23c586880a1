"""Gaussian blur: the published kernels, and the fastest way to apply each.

A plain `cv2.filter2D` with a 41 x 41 kernel takes most of the time of a degradation. There are
faster ways to the same pixels (to 0.001 of 255 levels), which depend on the kernel: see `blur`, and
docs/decisions/ (blur) for what else was tried.
"""

import threading
from typing import Annotated, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, Field

from components.images import Image


def _odd(size: int) -> int:
    if size % 2 == 0:
        raise ValueError("a kernel has a middle: its size must be odd")
    return size


OddInt = Annotated[int, Field(ge=1), AfterValidator(_odd)]

Kernel: TypeAlias = npt.NDArray[np.float64]
Picture: TypeAlias = npt.NDArray[np.float32]

# The part of a kernel's weights (their sum is 1) that may be left out. It changes a pixel by less
# than 0.0003 of 255 levels; with ten times as much, one pixel in a thousand rounds differently, and
# JPEG spreads the difference.
NEGLIGIBLE = 1e-6
# Up to this many weights OpenCV filters directly, above by Fourier transforms of small tiles.
DIRECT_AREA = 130


def gaussian_kernel(size: int, sigma_x: float, sigma_y: float, angle: float) -> Kernel:
    """Return a bivariate Gaussian on a square grid, with sum 1, as BasicSR does.

    sigma_x and sigma_y are its standard deviations in pixels along its own two axes; `angle`
    (radians) turns these from x (along a row) towards y (down a column). Shape: (size, size).
    """
    if size < 1 or size % 2 == 0:
        raise ValueError(f"a kernel has a middle: its size must be odd; got {size}")
    if sigma_x <= 0 or sigma_y <= 0:
        raise ValueError(f"a Gaussian needs sigmas above 0; got {sigma_x} and {sigma_y}")
    # exp(-(u^2 / sigma_x^2 + v^2 / sigma_y^2) / 2), (u, v) = (x, y) in the Gaussian's own axes
    offsets = np.arange(size, dtype=np.float64) - size // 2
    x, y = offsets[None, :], offsets[:, None]
    u = np.cos(angle) * x + np.sin(angle) * y
    v = np.cos(angle) * y - np.sin(angle) * x
    weights: Kernel = np.exp(-0.5 * ((u / sigma_x) ** 2 + (v / sigma_y) ** 2))
    normalized: Kernel = weights / weights.sum()
    return normalized


def blur(image: Image | Picture, kernel: Kernel) -> Picture:
    """Filter each channel as `cv2.filter2D` does, with mirrored borders (`BORDER_REFLECT_101`).

    The kernel's weights must sum to 1 and stay the same when it is turned by 180 degrees, as for
    every Gaussian. Rows and columns of negligible weight are cut off. If the rest is the product of
    a row and a column (an isotropic Gaussian, or one along the axes), it is applied in two passes;
    if it is small, directly; otherwise by one Fourier transform of the whole picture.

    Shape: (H, W, 3) uint8 or float32 -> (H, W, 3) float32 in the same range of values.
    """
    kernel = _trimmed(kernel)
    if kernel.size == 1:
        return image.astype(np.float32)
    column, row = kernel.sum(axis=1) / kernel.sum(), kernel.sum(axis=0)
    if np.abs(kernel - np.outer(column, row)).sum() < NEGLIGIBLE:
        # OpenCV's "kernelX" is the one along a row.
        return np.asarray(cv2.sepFilter2D(image, cv2.CV_32F, row, column), dtype=np.float32)
    if kernel.size < DIRECT_AREA:
        return np.asarray(cv2.filter2D(image, cv2.CV_32F, kernel), dtype=np.float32)
    return _blur_by_fourier(image, kernel)


def _trimmed(kernel: Kernel) -> Kernel:
    """Cut off outer rows and columns, as many on each side, while their sum is negligible."""
    down = _needed_radius(kernel.sum(axis=1))
    along = _needed_radius(kernel.sum(axis=0))
    middle_y, middle_x = kernel.shape[0] // 2, kernel.shape[1] // 2
    return kernel[middle_y - down : middle_y + down + 1, middle_x - along : middle_x + along + 1]


def _needed_radius(weights: npt.NDArray[np.float64]) -> int:
    middle = weights.size // 2
    # beyond[r]: the weight that a cut at radius r leaves out, on both sides together
    rings = weights[middle:] + weights[middle::-1]
    beyond = np.append(np.cumsum(rings[::-1])[::-1][1:], 0.0)
    return int(np.argmax(beyond < NEGLIGIBLE / 2))


def _blur_by_fourier(image: Image | Picture, kernel: Kernel) -> Picture:
    height, width = image.shape[:2]
    down, along = kernel.shape[0] // 2, kernel.shape[1] // 2
    tall = cv2.getOptimalDFTSize(height + 2 * down)
    wide = cv2.getOptimalDFTSize(width + 2 * along)
    scratch = _scratch.array(5 * tall * wide)
    kernel_plane, plane = scratch[: 2 * tall * wide].reshape(2, tall, wide)
    padded = scratch[2 * tall * wide :].reshape(tall, wide, 3)

    # The kernel lies in the upper left corner of its plane, so the result is shifted by one more
    # radius, and values that wrap around stay in the rows and columns before it.
    kernel_plane[:] = 0
    kernel_plane[: kernel.shape[0], : kernel.shape[1]] = kernel
    cv2.dft(kernel_plane, dst=kernel_plane)
    border = (down, tall - height - down, along, wide - width - along)
    padded[:] = cv2.copyMakeBorder(image, *border, cv2.BORDER_REFLECT_101)
    blurred = np.empty((height, width, 3), np.float32)
    for channel in range(3):
        cv2.extractChannel(padded, channel, dst=plane)
        cv2.dft(plane, dst=plane)
        cv2.mulSpectrums(plane, kernel_plane, 0, c=plane)
        cv2.dft(plane, dst=plane, flags=cv2.DFT_INVERSE | cv2.DFT_SCALE | cv2.DFT_REAL_OUTPUT)
        valid = plane[2 * down : 2 * down + height, 2 * along : 2 * along + width]
        cv2.insertChannel(valid, blurred, channel)
    return blurred


class _Scratch(threading.local):
    """Memory that a thread keeps between pictures.

    A dozen new planes per picture would go back to the system each time, and cost 10 ms of page
    faults, as much as the transforms.
    """

    def __init__(self) -> None:
        self._memory = np.empty(0, np.float32)

    def array(self, size: int) -> npt.NDArray[np.float32]:
        if self._memory.size < size:
            self._memory = np.empty(size, np.float32)
        return self._memory[:size]


_scratch = _Scratch()
