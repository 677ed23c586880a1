"""Pictures to and from bytes, sizes and tensors; the only place where a value range changes.

A picture is a uint8 array (H, W, 3), RGB, the right way up. A tensor of pictures
is float32 (B, 3, H, W), RGB in [0, 1]. A profile for RGB is not applied: numbers are read as sRGB.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
import PIL.Image

from components.image_files.colours import upright
from components.image_files.opening import BROKEN, open_picture, reason, start_of
from components.image_files.opening import ImageError as ImageError
from components.image_files.samples import over_white

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Image: TypeAlias = npt.NDArray[np.uint8]

MIN_SIDE = 16  # pixels; nothing smaller shows a face


def decode(data: bytes, *, max_pixels: int = 100_000_000, min_side: int = MIN_SIDE) -> Image:
    """Decode an untrusted picture file of one of `kinds.KINDS` (its first picture) to RGB.

    The orientation is applied; transparency is laid over white; grey, palette, CMYK, YCbCr and Lab
    become RGB, by their profile if they have one; 16 bits become 8. The size is read from the
    header and bounded before any pixel is decoded.

    Raises: ImageError with the reason: not a picture, truncated or broken, too large, too small, or
    a pixel type whose range is unknown (32-bit integers, floats).
    """
    picture = open_picture(data, max_pixels=max_pixels, min_side=min_side)
    try:
        return from_pil(picture)
    except ImageError:
        raise
    except BROKEN as error:
        raise ImageError(f"truncated or broken: {reason(error)}") from error


def from_pil(picture: PIL.Image.Image) -> Image:
    """Make RGB, the right way up, of a picture that Pillow holds, as `decode` does.

    Raises: ImageError for a pixel type whose range is unknown.
    """
    return over_white(upright(picture).picture)


def encode_png(image: Image) -> bytes:
    """Encode RGB as PNG; the same picture gives the same bytes."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"a picture is uint8 (H, W, 3); got {image.dtype} {image.shape}")
    done, png = cv2.imencode(
        ".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 4]
    )
    if not done:
        raise ValueError(f"OpenCV cannot encode a picture of shape {image.shape}")
    return bytes(png)


def decode_png(data: bytes) -> Image:
    """Decode what `encode_png` made: fast, without the checks that an untrusted file needs."""
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    if bgr is None:
        raise ImageError(f"not a PNG of this project: {start_of(data)}")
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def side(png: bytes) -> int:
    """Return the side of a square PNG in pixels."""
    return int(decode_png(png).shape[0])


def resize(image: Image, size: int) -> Image:
    """Make a square picture `size` pixels wide: area average to shrink, bicubic to enlarge."""
    height, width = image.shape[:2]
    if height != width:
        raise ValueError(f"only square pictures are resized; got {width} x {height}")
    if width == size:
        return image
    interpolation = cv2.INTER_AREA if size < width else cv2.INTER_CUBIC
    resized = cv2.resize(image, (size, size), interpolation=interpolation)
    return np.asarray(resized, dtype=np.uint8)


def mirror(image: Image) -> Image:
    """Swap left and right."""
    return np.ascontiguousarray(image[:, ::-1])


def to_tensor(images: Sequence[Image], device: torch.device | None = None) -> Tensor:
    """Stack pictures of one size. Shape: (H, W, 3) uint8 each -> (B, 3, H, W) float32 in [0, 1].

    To a `device` they go as 8 bits, a quarter of what they are there.
    """
    import torch

    stacked = torch.from_numpy(np.stack(images)).to(device)
    return stacked.permute(0, 3, 1, 2).contiguous().float() / 255


def rounded(images_B3HW: Tensor) -> Tensor:
    """Clamp to [0, 1] and round to 8 bits, as a picture's file would; stays on its device."""
    return (images_B3HW.detach().float().clamp(0, 1) * 255).round() / 255


def from_tensor(images_B3HW: Tensor) -> list[Image]:
    """Make pictures of a tensor: clamp to [0, 1], round half to even to 8 bits."""
    import torch

    bytes_B3HW = (images_B3HW.detach().float().clamp(0, 1) * 255).round().to(torch.uint8)
    stacked: npt.NDArray[np.uint8] = bytes_B3HW.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return list(stacked)
