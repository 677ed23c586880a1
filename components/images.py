"""Pictures to and from bytes, sizes and tensors; the only place where a value range changes.

A picture is a uint8 array (H, W, 3), RGB, the right way up. A tensor of pictures
is float32 (B, 3, H, W), RGB in [0, 1]. Embedded colour profiles are not applied: numbers are read
as sRGB.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
import PIL.Image
import PIL.ImageOps

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Image: TypeAlias = npt.NDArray[np.uint8]

MIN_SIDE = 16  # pixels; nothing smaller shows a face
# Few formats, so that a file from outside reaches few parsers. JPEG includes MPO, as phones write.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
_SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N")
_WITH_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")
_TO_RGB = ("1", "L", "P", "CMYK", "YCbCr", "HSV", "RGBX")
# What Pillow's parsers raise on broken bytes: the first three were seen here, with bytes flipped in
# every format; the others are on record elsewhere.
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    ArithmeticError,
    LookupError,
    TypeError,
    struct.error,
    zlib.error,
)


class ImageError(ValueError):
    """Bytes that are no usable picture; the message is the reason, ready for a `rejected` list."""


def decode(data: bytes, *, max_pixels: int = 100_000_000, min_side: int = MIN_SIDE) -> Image:
    """Decode an untrusted JPEG, PNG, WebP, BMP or TIFF (its first frame) to RGB.

    EXIF orientation is applied; transparency is laid over white; grey, palette, CMYK and YCbCr
    become RGB; 16 bits become 8. The size is read from the header and bounded before any pixel is
    decoded.

    Raises: ImageError with the reason: not a picture, truncated or broken, too large, too small, or
    a pixel type whose range is unknown (32-bit integers, floats).
    """
    try:
        picture = PIL.Image.open(io.BytesIO(data), formats=FORMATS)
    except PIL.UnidentifiedImageError as error:
        raise ImageError(f"not a JPEG, PNG, WebP, BMP or TIFF ({_start_of(data)})") from error
    except PIL.Image.DecompressionBombError as error:
        raise ImageError(f"too large: {error}") from error
    except _BROKEN as error:
        raise ImageError(f"broken: {_reason(error)}") from error
    width, height = picture.size
    if width * height > max_pixels:
        raise ImageError(f"too large: {width} x {height}, at most {max_pixels:,} pixels")
    if min(width, height) < min_side:
        raise ImageError(f"too small: {width} x {height}, at least {min_side} pixels per side")
    try:
        picture.load()
        return from_pil(picture)
    except ImageError:
        raise
    except _BROKEN as error:
        raise ImageError(f"truncated or broken: {_reason(error)}") from error


def from_pil(picture: PIL.Image.Image) -> Image:
    """Make RGB, the right way up, of a picture that Pillow holds, as `decode` does.

    Raises: ImageError for a pixel type whose range is unknown.
    """
    picture = PIL.ImageOps.exif_transpose(picture)
    if picture.mode in _SIXTEEN_BITS:
        # 16-bit colour never comes here: Pillow itself keeps the upper eight bits.
        grey = np.asarray(picture).astype(np.float64) / 257  # 65535 -> 255
        picture = PIL.Image.fromarray(np.rint(grey).astype(np.uint8))
    if picture.mode in _WITH_ALPHA or picture.has_transparency_data:
        rgba = picture.convert("RGBA")
        picture = PIL.Image.new("RGB", rgba.size, "white")
        picture.paste(rgba, mask=rgba.getchannel("A"))
    elif picture.mode in _TO_RGB:
        picture = picture.convert("RGB")
    if picture.mode != "RGB":
        raise ImageError(f"pixels of type {picture.mode}: save it with 8 or 16 bits per channel")
    return np.array(picture, dtype=np.uint8)


def _start_of(data: bytes) -> str:
    return f"it starts with {data[:12]!r}" if data else "it is empty"


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__


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
        raise ImageError(f"not a PNG of this project: {_start_of(data)}")
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
