"""Make RGB of whatever colours a picture file holds, the right way up, by its own profile.

RGB keeps its numbers and its profile, so wide gamuts stay. CMYK, grey and Lab become sRGB by their
profile; without one, grey is sRGB's grey, and CMYK is converted plainly.
"""

from __future__ import annotations

import io
from functools import cache
from typing import NamedTuple

import numpy as np
import PIL.Image
import PIL.ImageCms
import PIL.ImageOps

from components.image_files.opening import ImageError

_SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N")
_WITH_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")
_TO_RGB = ("1", "L", "P", "YCbCr", "HSV", "RGBX", "CMYK")
_GREY = ("1", "L", "LA", "La", *_SIXTEEN_BITS)
# Where an ICC profile names its colour space, and what it calls that of a picture.
_SPACE = slice(16, 20)
_SPACES = {"L": b"GRAY", "CMYK": b"CMYK"}


class Upright(NamedTuple):
    """A picture the right way up."""

    picture: PIL.Image.Image  # RGB or RGBA
    profile: bytes | None  # of its RGB; None: sRGB, as far as is known
    is_grey: bool  # the file has one channel, and no profile says how light it is
    notes: tuple[str, ...]  # what is no longer as in the file


def upright(picture: PIL.Image.Image) -> Upright:
    """Turn a decoded picture by its orientation and give its colours as RGB, with transparency.

    16 bits become 8. Raises: ImageError for a pixel type whose range is unknown.
    """
    found = picture.info.get("icc_profile")
    profile = found if isinstance(found, bytes) and found else None
    was = picture.mode
    picture = _eight_bits(PIL.ImageOps.exif_transpose(picture), picture.format)
    alpha = None
    if picture.mode in _WITH_ALPHA or picture.has_transparency_data:
        picture, alpha = _without_alpha(picture)
    if picture.mode == "LAB":
        lab = PIL.ImageCms.createProfile("LAB")
        picture, profile, notes = _converted(picture, PIL.ImageCms.ImageCmsProfile(lab), "Lab")
    elif (space := _SPACES.get(picture.mode)) and profile and profile[_SPACE] == space:
        name = "CMYK" if space == b"CMYK" else "grey"
        picture, profile, notes = _by_profile(picture, profile, name)
    else:
        notes = ("CMYK without a profile became RGB",) if picture.mode == "CMYK" else ()
        picture = picture.convert("RGB") if picture.mode in _TO_RGB else picture
        profile = profile if profile and profile[_SPACE] == b"RGB " else None
    if picture.mode != "RGB":
        raise ImageError(f"pixels of type {picture.mode}: save it with 8 or 16 bits per channel")
    if alpha is not None:
        picture.putalpha(alpha)
    return Upright(picture, profile, was in _GREY and profile is None, notes)


@cache
def srgb() -> bytes:
    """Return a profile of sRGB."""
    return PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile("sRGB")).tobytes()


def _eight_bits(picture: PIL.Image.Image, format_: str | None) -> PIL.Image.Image:
    # Pillow itself keeps the upper eight bits of 16-bit colour. It reads a 16-bit PGM as "I".
    if picture.mode in _SIXTEEN_BITS or (picture.mode == "I" and format_ == "PPM"):
        grey = np.asarray(picture).astype(np.float64) / 257  # 65535 -> 255
        icc = picture.info.get("icc_profile")
        picture = PIL.Image.fromarray(np.rint(grey).astype(np.uint8))
        picture.info["icc_profile"] = icc
    return picture


def _without_alpha(picture: PIL.Image.Image) -> tuple[PIL.Image.Image, PIL.Image.Image]:
    if picture.mode in ("LA", "La"):
        whole = picture.convert("LA")
        return whole.getchannel("L"), whole.getchannel("A")
    whole = picture.convert("RGBA")
    return whole.convert("RGB"), whole.getchannel("A")


def _by_profile(
    picture: PIL.Image.Image, profile: bytes, name: str
) -> tuple[PIL.Image.Image, bytes | None, tuple[str, ...]]:
    try:
        opened = PIL.ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return _converted(picture, opened, name)
    except (PIL.ImageCms.PyCMSError, OSError, ValueError):
        said = f"{name} became RGB without its profile, which cannot be used"
        return picture.convert("RGB"), None, (said,)


def _converted(
    picture: PIL.Image.Image, profile: PIL.ImageCms.ImageCmsProfile, name: str
) -> tuple[PIL.Image.Image, bytes | None, tuple[str, ...]]:
    target = PIL.ImageCms.ImageCmsProfile(io.BytesIO(srgb()))
    rgb = PIL.ImageCms.profileToProfile(picture, profile, target, outputMode="RGB")
    assert rgb is not None  # only for a conversion in place
    return rgb, srgb(), (f"{name} became sRGB by its profile",)
