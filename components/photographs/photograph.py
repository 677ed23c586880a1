"""Read and write a photograph's file: upright pixels, colour profile and EXIF data."""

from __future__ import annotations

import io
from dataclasses import dataclass

import PIL.ExifTags
import PIL.Image

from components import images
from components.images import Image
from components.photographs.options import DEFAULT_QUALITY, FileFormat

SUFFIXES: dict[FileFormat, str] = {"jpeg": ".jpg", "png": ".png", "webp": ".webp"}

MAX_PIXELS = 100_000_000
# JPEG includes MPO, which phones write. All other formats are written without loss.
_WRITTEN_AS: dict[str | None, FileFormat] = {"JPEG": "jpeg", "MPO": "jpeg", "WEBP": "webp"}
_LONGEST_JPEG_EXIF = 65_533  # bytes; a JPEG segment holds no more
# Where an ICC profile names its colour space.
_ICC_COLOURS = slice(16, 20)


@dataclass(frozen=True)
class Photograph:
    """Upright RGB, uint8 (H, W, 3), with its colour profile and EXIF data."""

    pixels: Image
    format: FileFormat  # of the result, unless another one is asked for
    icc_profile: bytes | None = None
    exif: bytes | None = None  # without orientation, size and thumbnail


def read(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Photograph:
    """Decode a photograph's file; its size is checked before any pixel is decoded.

    Pixels are those of `images.decode`: turned upright, transparency over white. A profile for
    RGB is kept; one for grey or CMYK no longer fits. Unreadable EXIF data are dropped.

    Raises: images.ImageError with the reason if the picture cannot be used.
    """
    pixels = images.decode(data, max_pixels=max_pixels)
    with PIL.Image.open(io.BytesIO(data), formats=images.FORMATS) as file:
        profile = file.info.get("icc_profile")
        fits = isinstance(profile, bytes) and profile[_ICC_COLOURS] == b"RGB "
        return Photograph(
            pixels=pixels,
            format=_WRITTEN_AS.get(file.format, "png"),
            icc_profile=profile if fits else None,
            exif=_without_orientation(file.info.get("exif")),
        )


def encode(photograph: Photograph, *, format: FileFormat, quality: int = DEFAULT_QUALITY) -> bytes:
    """Encode with colour profile and EXIF data.

    `quality`, from 1 to 100, applies to JPEG and WebP; PNG is lossless.

    Raises: ValueError if the quality is out of range, or the picture is too large for the format.
    """
    if not 1 <= quality <= 100:
        raise ValueError(f"quality = {quality}: must be from 1 to 100")
    about: dict[str, object] = {}
    if photograph.icc_profile is not None:
        about["icc_profile"] = photograph.icc_profile
    fits = format != "jpeg" or len(photograph.exif or b"") <= _LONGEST_JPEG_EXIF
    if photograph.exif is not None and fits:
        about["exif"] = photograph.exif
    if format == "jpeg":
        about["subsampling"] = "4:4:4"  # avoids colour bleeding at lips and hair
    if format != "png":
        about["quality"] = quality
    encoded = io.BytesIO()
    try:
        PIL.Image.fromarray(photograph.pixels).save(encoded, format, **about)
    except (OSError, ValueError) as error:  # what Pillow's writers raise
        height, width = photograph.pixels.shape[:2]
        raise ValueError(
            f"{width} x {height} pixels cannot be written as {format} ({error}): use png"
        ) from error
    return encoded.getvalue()


def _without_orientation(data: bytes | None) -> bytes | None:
    """Remove what is no longer true: orientation and size. Pillow never writes the thumbnail."""
    if not data:
        return None
    exif = PIL.Image.Exif()
    try:
        exif.load(data)
        exif.pop(PIL.ExifTags.Base.Orientation, None)
        camera = exif.get_ifd(PIL.ExifTags.IFD.Exif)
        for size in (PIL.ExifTags.Base.ExifImageWidth, PIL.ExifTags.Base.ExifImageHeight):
            camera.pop(size, None)
        return exif.tobytes() if exif else None
    except Exception:  # noqa: BLE001 - parsers of broken EXIF raise anything; the pixels are still good
        return None
