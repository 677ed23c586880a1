"""Read a photograph's file: upright pixels, colours, and what else the result has to keep."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import PIL.Image
import PIL.JpegImagePlugin

from components import images
from components.image_files import samples
from components.image_files.colours import Upright, upright
from components.image_files.opening import BROKEN, ImageError, open_picture, reason
from components.image_files.samples import Samples
from components.images import Image
from components.photographs import metadata
from components.photographs.metadata import Metadata
from components.photographs.options import FileFormat

SUFFIXES: dict[FileFormat, str] = {"jpeg": ".jpg", "png": ".png", "webp": ".webp"}

MAX_PIXELS = 100_000_000
# JPEG includes MPO, which phones write. All other formats are written without loss, as PNG.
_WRITTEN_AS: dict[str | None, FileFormat] = {
    "JPEG": "jpeg",
    "MPO": "jpeg",
    "WEBP": "webp",
    "PNG": "png",
}
_DEPTHS = {"AVIF": (b"pixi", 9), "HEIF": (b"pixi", 9), "JPEG2000": (b"ihdr", 14)}
_HEADER = 65_536  # bytes of a file within which its boxes say how deep its pixels are


@dataclass(frozen=True)
class JpegCoding:
    """How a JPEG was encoded: its quantisation tables, subsampling, and order."""

    tables: list[list[int]]  # 64 numbers each, in Pillow's order
    subsampling: int  # 0: 4:4:4, 1: 4:2:2, 2: 4:2:0
    progressive: bool


@dataclass(frozen=True)
class Photograph:
    """Upright RGB, uint8 (H, W, 3), with its colour profile and what its file says about it.

    `pixels` change as it is restored; the other fields stay those of the file.
    """

    pixels: Image
    format: FileFormat  # of the result, unless another one is asked for
    icc_profile: bytes | None = None
    metadata: Metadata = field(default_factory=Metadata)
    samples: Samples | None = None  # 16 bits or transparency, which `pixels` do not hold
    is_grey: bool = False  # the file has one channel
    jpeg: JpegCoding | None = None
    file_format: FileFormat | None = None  # what the file is; None: of none that is written
    is_lossless: bool = True  # for WebP: how the file was encoded
    notes: tuple[str, ...] = ()  # what was reduced as it was read


def read(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Photograph:
    """Decode a photograph's file; its size is checked before any pixel is decoded.

    Pixels are those of `images.decode`: turned upright, transparency over white. A profile for RGB
    is kept; colours of another kind become sRGB by theirs.

    Raises: images.ImageError with the reason if the picture cannot be used.
    """
    picture = open_picture(data, max_pixels=max_pixels, min_side=images.MIN_SIDE)
    try:
        return _read(data, picture)
    except ImageError:
        raise
    except BROKEN as error:
        raise ImageError(f"truncated or broken: {reason(error)}") from error


def _read(data: bytes, picture: PIL.Image.Image) -> Photograph:
    turned = upright(picture)
    pixels = samples.over_white(turned.picture)
    own = samples.of_eight_bits(turned.picture)
    notes = [*_further_pictures(picture), *turned.notes]
    if samples.are_sixteen_bits(data, picture):
        deep = None if turned.notes else samples.of_sixteen_bits(data, picture)
        if deep is not None and samples.agree(deep, pixels):
            own, pixels = deep, deep.shown
        else:
            notes.append("16 bits became 8")
    elif (bits := _depth(data, picture)) > 8:
        notes.append(f"{bits} bits became 8")
    return Photograph(
        pixels=pixels,
        format=_WRITTEN_AS.get(picture.format, "png"),
        icc_profile=turned.profile,
        metadata=_metadata(data, picture, turned),
        samples=own,
        is_grey=turned.is_grey,
        jpeg=_jpeg_coding(picture),
        file_format=_WRITTEN_AS.get(picture.format),
        is_lossless=picture.format != "WEBP" or _is_lossless_webp(data),
        notes=tuple(notes),
    )


def _metadata(data: bytes, picture: PIL.Image.Image, turned: Upright) -> Metadata:
    found = metadata.read(data, picture)
    return replace(found, colours=()) if turned.profile is not None else found


def _further_pictures(picture: PIL.Image.Image) -> Iterator[str]:
    """Say what a file holds after its first picture."""
    try:
        number = getattr(picture, "n_frames", 1)
    except BROKEN:  # the first one is whole
        yield "the pictures after the first, which are broken, are left out"
        return
    if number < 2:
        return
    if picture.format == "TIFF":
        yield f"of {number} pages, the result has the first"
    elif picture.format in ("MPO", "HEIF"):
        yield f"of {number} pictures in the file, the result has the first"
    else:
        yield f"of an animation of {number} pictures, the result has the first"


def _depth(data: bytes, picture: PIL.Image.Image) -> int:
    """Return the bits of a channel, as far as the header of a file says them."""
    if picture.format == "PPM":
        return 16 if picture.mode == "I" else 8
    box, offset = _DEPTHS.get(picture.format or "", (b"", 0))
    at = data.find(box, 0, _HEADER) if box else -1
    if at < 0 or at + offset >= len(data):
        return 8
    number = data[at + offset]
    return (number & 127) + 1 if picture.format == "JPEG2000" else number


def _jpeg_coding(picture: PIL.Image.Image) -> JpegCoding | None:
    """Return how a JPEG was encoded, if Pillow can encode like that; None: not known."""
    layers: Any = getattr(picture, "layer", None)
    tables: Any = getattr(picture, "quantization", None)
    if not layers or not tables or picture.mode not in ("L", "RGB"):
        return None
    own = [tables.get(layer[3]) for layer in layers]
    if None in own or any(not 0 < step < 256 for table in own for step in table):
        return None
    while len(own) > 1 and own[-1] == own[-2]:  # the last is that of all further channels
        own.pop()
    # Other samplings than Pillow's three are written as 4:4:4, which loses nothing.
    sampling = max(0, PIL.JpegImagePlugin.get_sampling(picture))
    progressive = bool(picture.info.get("progressive"))
    return JpegCoding([list(table) for table in own], sampling, progressive)


def _is_lossless_webp(data: bytes) -> bool:
    at = 12
    while at + 8 <= len(data):
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        if name in (b"VP8L", b"VP8 "):
            return name == b"VP8L"
        at += 8 + (16 if name == b"ANMF" else size + size % 2)  # a frame holds the same chunks
    return False


def is_grey(pixels: Image) -> bool:
    """Return whether all three channels are equal."""
    first = pixels[..., 0]
    return np.array_equal(first, pixels[..., 1]) and np.array_equal(first, pixels[..., 2])
