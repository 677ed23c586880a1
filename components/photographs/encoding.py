"""Write a restored photograph's file, as much like the file that it came from as can be."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import PIL.Image

from components.image_files.samples import Samples
from components.photographs import blocks, metadata
from components.photographs.blocks import Chunk
from components.photographs.metadata import Metadata
from components.photographs.options import (
    DEFAULT_QUALITY,
    FileFormat,
    FileOptions,
    RestoreOptions,
)
from components.photographs.photograph import Photograph, is_grey

_PNG_COMPRESSION = 6


class Written(NamedTuple):
    """A file, and what of the photograph it does not hold."""

    data: bytes
    notes: list[str]


def write(
    photograph: Photograph,
    *,
    format: FileFormat,
    quality: int | None = None,
    strip_metadata: bool = False,
    restored_by: str | None = None,
) -> Written:
    """Encode with colour profile and metadata.

    Args:
        photograph: what to write.
        format: of the file. PNG is lossless.
        quality: from 1 to 100, of JPEG and WebP. None: a JPEG keeps its quantisation tables and
            subsampling, a lossless WebP stays lossless, and all else gets 95.
        strip_metadata: write no metadata; the colour profile is none.
        restored_by: the model that restored faces, which the file's XMP then says.

    Raises: ValueError if the quality is out of range, or the picture is too large for the format.
    """
    if quality is not None and not 1 <= quality <= 100:
        raise ValueError(f"quality = {quality}: must be from 1 to 100")
    about = photograph.metadata
    if strip_metadata:
        about = Metadata(colours=about.colours)
    elif restored_by is not None:
        about = metadata.marked(about, restored_by)
    try:
        data, notes = _WRITERS[format](photograph, about, quality)
    except (OSError, ValueError, cv2.error) as error:  # what the writers raise
        height, width = photograph.pixels.shape[:2]
        raise ValueError(
            f"{width} x {height} pixels cannot be written as {format} ({error}): use png"
        ) from error
    return Written(data, [*photograph.notes, *notes])


def encode(
    photograph: Photograph,
    *,
    format: FileFormat,
    quality: int | None = None,
    strip_metadata: bool = False,
    restored_by: str | None = None,
) -> bytes:
    """Encode as `write` does, and return the file alone."""
    written = write(
        photograph,
        format=format,
        quality=quality,
        strip_metadata=strip_metadata,
        restored_by=restored_by,
    )
    return written.data


def is_nothing_asked(photograph: Photograph, options: RestoreOptions, output: FileOptions) -> bool:
    """Return whether a photograph in which no face was restored can stay the file that it is."""
    return (
        options.scale == 1
        and output.quality is None
        and not output.strip_metadata
        and output.format in (None, photograph.file_format)
    )


def _jpeg(photograph: Photograph, about: Metadata, quality: int | None) -> Written:
    options: dict[str, Any] = _profile(photograph)
    coding = photograph.jpeg
    if quality is None and coding is not None:
        options |= {"qtables": coding.tables, "subsampling": coding.subsampling}
        options |= {"progressive": coding.progressive}
    else:
        # Without subsampling, no colours bleed at lips and hair.
        options |= {"quality": quality or DEFAULT_QUALITY, "subsampling": 0}
    if about.resolution is not None:
        options["dpi"] = about.resolution
    pixels = photograph.pixels
    if photograph.is_grey and is_grey(pixels):
        pixels = pixels[..., 0]
    data = _by_pillow(pixels, "jpeg", **options)
    segments, lost = metadata.segments(about)
    notes = [*_reduced(photograph, deep=False, alpha=False), *metadata.words_of(lost)]
    return Written(blocks.with_segments(data, segments), notes)


def _png(photograph: Photograph, about: Metadata, quality: int | None) -> Written:
    del quality
    pixels: npt.NDArray[Any] = photograph.pixels
    alpha = None
    notes = _reduced(photograph, deep=True, alpha=True)
    if (samples := _usable_samples(photograph)) is not None:
        pixels, alpha = samples.changed(photograph.pixels)
        if samples.are_deep and (photograph.pixels != samples.shown).any():
            notes.append("16 bits are kept; the restored faces have the detail of 8")
    if photograph.is_grey and is_grey(pixels):
        pixels = pixels[..., :1]
    if pixels.dtype == np.uint8:
        whole = pixels if alpha is None else np.dstack([pixels, alpha])
        data = _by_pillow(whole.squeeze(), "png", compress_level=_PNG_COMPRESSION)
    else:
        data = _deep_png(pixels, alpha)
    chunks, lost = metadata.chunks(about)
    if photograph.icc_profile is not None:
        profile = b"icc\0\0" + zlib.compress(photograph.icc_profile)
        chunks = [Chunk(b"iCCP", profile), *chunks]
    return Written(blocks.with_chunks(data, chunks), [*notes, *metadata.words_of(lost)])


def _webp(photograph: Photograph, about: Metadata, quality: int | None) -> Written:
    options: dict[str, Any] = _profile(photograph)
    was_webp = photograph.format == "webp"
    if quality is None and was_webp and photograph.is_lossless:
        options |= {"lossless": True, "exact": True}
    else:
        options["quality"] = quality or DEFAULT_QUALITY
    if about.exif is not None:
        options["exif"] = about.exif
    if about.xmp is not None:
        options["xmp"] = about.xmp
    pixels: npt.NDArray[Any] = photograph.pixels
    samples = _usable_samples(photograph)
    if samples is not None and not samples.are_deep:
        pixels, alpha = samples.changed(pixels)
        pixels = pixels if alpha is None else np.dstack([pixels, alpha])
    notes = _reduced(photograph, deep=False, alpha=samples is not None and not samples.are_deep)
    notes += metadata.words_of(metadata.lost_in_webp(about))
    return Written(_by_pillow(pixels, "webp", **options), notes)


_WRITERS: dict[FileFormat, Callable[[Photograph, Metadata, int | None], Written]] = {
    "jpeg": _jpeg,
    "png": _png,
    "webp": _webp,
}


def _usable_samples(photograph: Photograph) -> Samples | None:
    """Return the file's own samples if the result has their size; None: it has none, or is larger.

    How a background is enlarged is a matter of 8-bit RGB.
    """
    samples = photograph.samples
    if samples is None or samples.shown.shape != photograph.pixels.shape:
        return None
    return samples


def _reduced(photograph: Photograph, *, deep: bool, alpha: bool) -> list[str]:
    """Say what a format, or the enlarging, takes of the file's own samples."""
    samples, usable = photograph.samples, _usable_samples(photograph) is not None
    notes = []
    if samples is not None and samples.are_deep and not (deep and usable):
        notes.append("16 bits became 8")
    if samples is not None and samples.alpha is not None and not (alpha and usable):
        notes.append("transparency was laid over white")
    return notes


def _profile(photograph: Photograph) -> dict[str, Any]:
    return {} if photograph.icc_profile is None else {"icc_profile": photograph.icc_profile}


def _by_pillow(pixels: npt.NDArray[Any], format_: str, **options: Any) -> bytes:
    encoded = io.BytesIO()
    PIL.Image.fromarray(np.ascontiguousarray(pixels)).save(encoded, format_, **options)
    return encoded.getvalue()


def _deep_png(pixels: npt.NDArray[Any], alpha: npt.NDArray[Any] | None) -> bytes:
    if pixels.shape[2] == 1 and alpha is not None:  # OpenCV writes no grey with transparency
        pixels = np.repeat(pixels, 3, axis=2)
    bgr = pixels[..., ::-1]
    whole = bgr if alpha is None else np.dstack([bgr, alpha])
    options = [cv2.IMWRITE_PNG_COMPRESSION, _PNG_COMPRESSION]
    done, png = cv2.imencode(".png", np.ascontiguousarray(whole), options)
    if not done:
        raise ValueError("OpenCV cannot encode it")
    return bytes(png)
