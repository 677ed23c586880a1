import io
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.ExifTags
import PIL.Image
import PIL.ImageCms
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components import images
from components.photographs import encoding, photograph
from components.photographs.photograph import FileFormat, Photograph

FORMATS: tuple[FileFormat, ...] = ("jpeg", "png", "webp")
ORIENTATION = PIL.ExifTags.Base.Orientation
SRGB = PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile("sRGB")).tobytes()


def picture() -> npt.NDArray[np.uint8]:
    """Return 40 x 24 pixels that look different in each orientation."""
    light = np.linspace(40, 200, 40)[None, :].repeat(24, axis=0)
    red = np.linspace(220, 20, 24)[:, None].repeat(40, axis=1)
    return np.stack([red, light, 240 - red], axis=-1).astype(np.uint8)


def save(pixels: npt.NDArray[np.uint8], name: str, **about: Any) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, name, **about)
    return file.getvalue()


def seen_in(file: bytes) -> PIL.Image.Image:
    return PIL.Image.open(io.BytesIO(file))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", FORMATS)
def test_a_rotated_file_is_returned_upright_and_not_rotated_again(
    name: FileFormat, orientation: int
) -> None:
    exif = PIL.Image.Exif()
    exif[ORIENTATION] = orientation
    exif[PIL.ExifTags.Base.Model] = "Camera 7"
    camera = exif.get_ifd(PIL.ExifTags.IFD.Exif)
    camera[PIL.ExifTags.Base.ExifImageWidth] = 40
    camera[PIL.ExifTags.Base.ISOSpeedRatings] = 200
    # How each orientation is stored, undone: the inverse of the turn that a viewer makes.
    upright = picture()
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: np.rot90(upright, -1),
    }[orientation]
    lossless = {"png": {}, "jpeg": {"quality": 98, "subsampling": 0}, "webp": {"lossless": True}}
    read = photograph.read(save(np.ascontiguousarray(stored), name, exif=exif, **lossless[name]))
    assert read.format == name
    assert np.abs(read.pixels.astype(int) - upright).max() <= (4 if name == "jpeg" else 0)
    written = seen_in(encoding.encode(read, format=name))
    kept = written.getexif()
    assert ORIENTATION not in kept
    assert kept[PIL.ExifTags.Base.Model] == "Camera 7"
    assert dict(kept.get_ifd(PIL.ExifTags.IFD.Exif)) == {PIL.ExifTags.Base.ISOSpeedRatings: 200}
    assert written.size == (40, 24)


@pytest.mark.parametrize("given_as", FORMATS)
@pytest.mark.parametrize("written_as", FORMATS)
def test_a_colour_profile_survives(given_as: FileFormat, written_as: FileFormat) -> None:
    read = photograph.read(save(picture(), given_as, icc_profile=SRGB))
    assert seen_in(encoding.encode(read, format=written_as)).info["icc_profile"] == SRGB


def test_a_profile_for_grey_or_cmyk_is_dropped() -> None:
    grey = bytearray(SRGB)
    grey[16:20] = b"GRAY"
    file = io.BytesIO()
    PIL.Image.fromarray(picture()[..., 0]).save(file, "png", icc_profile=bytes(grey))
    assert photograph.read(file.getvalue()).icc_profile is None


def test_broken_exif_is_dropped_and_the_picture_is_kept() -> None:
    exif = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + bytes(range(40))
    read = photograph.read(save(picture(), "png", exif=exif))
    assert np.array_equal(read.pixels, picture())


def test_exif_too_long_for_a_jpeg_is_dropped_only_there() -> None:
    exif = PIL.Image.Exif()
    exif[PIL.ExifTags.Base.ImageDescription] = "x" * 70_000
    read = photograph.read(save(picture(), "png", exif=exif))
    assert not seen_in(encoding.encode(read, format="jpeg")).getexif()
    assert len(seen_in(encoding.encode(read, format="png")).getexif()[270]) == 70_000


def test_formats_that_are_only_read_are_returned_as_png() -> None:
    for name in ("bmp", "tiff"):
        read = photograph.read(save(picture(), name))
        assert read.format == "png"
        again = photograph.read(encoding.encode(read, format=read.format))
        assert np.array_equal(again.pixels, picture())


def test_quality_applies_to_jpeg_and_webp() -> None:
    noise = np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)
    taken = Photograph(noise, "jpeg")
    for name in ("jpeg", "webp"):
        sizes = [len(encoding.encode(taken, format=name, quality=q)) for q in (20, 60, 95)]
        assert sizes == sorted(sizes)
        assert sizes[0] < sizes[2] / 2
    for wrong in (0, 101):
        with pytest.raises(ValueError, match=f"quality = {wrong}"):
            encoding.encode(taken, format="jpeg", quality=wrong)


def test_a_picture_too_large_for_its_format_is_refused_and_png_is_named() -> None:
    wide = Photograph(np.zeros((16, 16_400, 3), dtype=np.uint8), "png")
    with pytest.raises(ValueError, match=r"cannot be written as webp .*: use png"):
        encoding.encode(wide, format="webp")


def test_a_decompression_bomb_is_refused_by_its_header() -> None:
    bomb = save(np.zeros((2000, 2000, 3), dtype=np.uint8), "png")
    with pytest.raises(images.ImageError, match="too large: 2000 x 2000"):
        photograph.read(bomb[:200], max_pixels=1_000_000)


WHOLE = {name: save(picture(), name, icc_profile=SRGB) for name in FORMATS}


@given(st.sampled_from(FORMATS), st.integers(0, 4000), st.binary(max_size=4))
def test_damaged_files_are_refused_with_a_reason_or_read(
    name: str, where: int, damage: bytes
) -> None:
    whole = WHOLE[name]
    where = min(where, len(whole))
    damaged = whole[:where] + damage + whole[where + len(damage) :]
    for data in (damaged, whole[:where]):
        try:
            assert photograph.read(data).pixels.ndim == 3
        except images.ImageError as error:
            assert str(error)  # noqa: PT017
