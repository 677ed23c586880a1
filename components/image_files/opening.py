"""Open a picture file from outside; its size is checked before any pixel is decoded."""

from __future__ import annotations

import io
import struct
import zlib

import PIL.Image

from components.image_files import jpeg_end, jxl_size, kinds

# What parsers raise on broken bytes: the first three were seen here, with bytes flipped in every
# format; the others are on record elsewhere.
BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    ArithmeticError,
    LookupError,
    TypeError,
    AttributeError,
    RuntimeError,
    MemoryError,
    struct.error,
    zlib.error,
)


class ImageError(ValueError):
    """Bytes that are no usable picture; the message is the reason, ready for a `rejected` list."""


def open_picture(data: bytes, *, max_pixels: int, min_side: int) -> PIL.Image.Image:
    """Decode a picture, of several the first, as its file holds it: not turned, in its own mode.

    A JPEG that lacks nothing but its end marker is read.

    Raises: ImageError with the reason.
    """
    kind = kinds.of(data[: kinds.START])
    if kind is None:
        raise ImageError(f"not a {kinds.named()} ({start_of(data)})")
    _make_readable(kind)
    if kind is kinds.JPEG_XL:  # its plugin decodes the pixels as it opens the file
        _check_size(*_jxl_size(data), max_pixels, min_side)
    try:
        picture = PIL.Image.open(io.BytesIO(data), formats=kind.pillow)
    except PIL.UnidentifiedImageError as error:
        said = f"a broken {kind.name}, or not a {kinds.named()} at all ({start_of(data)})"
        raise ImageError(said) from error
    except PIL.Image.DecompressionBombError as error:
        raise ImageError(f"too large: {error}") from error
    except BROKEN as error:
        raise ImageError(f"broken: {reason(error)}") from error
    _check_size(*picture.size, max_pixels, min_side)
    try:
        picture.load()
    except BROKEN as error:
        if kind is kinds.JPEG and (whole := jpeg_end.completed(data)) is not None:
            return whole
        raise ImageError(f"truncated or broken: {reason(error)}") from error
    _check_size(*picture.size, max_pixels, min_side)  # a HEIC can say another size than it has
    return picture


def start_of(data: bytes) -> str:
    """Return what a file starts with, for a message."""
    return f"it starts with {data[:12]!r}" if data else "it is empty"


def reason(error: BaseException) -> str:
    """Return an error's message on one line, or its name."""
    return " ".join(str(error).split()) or type(error).__name__


def _check_size(width: int, height: int, max_pixels: int, min_side: int) -> None:
    if width * height > max_pixels:
        raise ImageError(f"too large: {width} x {height}, at most {max_pixels:,} pixels")
    if min(width, height) < min_side:
        raise ImageError(f"too small: {width} x {height}, at least {min_side} pixels per side")


def _jxl_size(data: bytes) -> tuple[int, int]:
    try:
        return jxl_size.read(data)
    except ValueError as error:
        raise ImageError(f"broken: {error}") from error


def _make_readable(kind: kinds.Kind) -> None:
    """Register the plugin that reads a kind. Raises: ImageError saying what to install."""
    try:
        if kind is kinds.HEIC:
            import pillow_heif

            pillow_heif.register_heif_opener()
        elif kind is kinds.JPEG_XL:
            import pillow_jxl  # noqa: F401 - it registers itself
    except ImportError as error:
        package = "pillow-heif" if kind is kinds.HEIC else "pillow-jxl-plugin"
        raise ImageError(f"a {kind.name}: to read it, run 'pip install {package}'") from error
