"""Files go in and come out: what their results keep, and what is said of the rest."""

import io
import struct
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import PIL.Image
import PIL.ImageCms
import PIL.JpegImagePlugin
import pytest
import tifffile

from components import images
from components.photographs import encoding, photograph
from components.photographs.options import FileFormat, OutputOptions, RestoreOptions
from components.photographs.photograph import Photograph

FACE = (slice(20, 40), slice(30, 50))  # where the tests change a picture
SRGB = PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile("sRGB")).tobytes()


def picture() -> images.Image:
    y, x = np.mgrid[0:64, 0:96].astype(np.float64)
    return np.rint(np.stack([60 + x, 40 + 2 * y, 200 - x], axis=-1)).astype(np.uint8)


def save(pixels: Any, format_: str, **about: Any) -> bytes:
    file = io.BytesIO()
    shown = pixels if isinstance(pixels, PIL.Image.Image) else PIL.Image.fromarray(pixels)
    shown.save(file, format_, **about)
    return file.getvalue()


def opened(data: bytes) -> Any:
    read = PIL.Image.open(io.BytesIO(data))
    read.load()
    return read


def restored(data: bytes) -> Photograph:
    """Read a file and change some of its pixels, as restoring a face does."""
    taken = photograph.read(data)
    pixels = taken.pixels.copy()
    pixels[FACE] = 255 - pixels[FACE]
    return replace(taken, pixels=pixels)


def outside() -> Any:
    mask = np.ones((64, 96), dtype=bool)
    mask[FACE] = False
    return mask


@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_a_jpeg_keeps_its_tables_its_subsampling_and_its_order(subsampling: int) -> None:
    coding = {"quality": 71, "subsampling": subsampling, "progressive": subsampling == 1}
    before = save(picture(), "JPEG", **coding)
    after = opened(encoding.encode(restored(before), format="jpeg"))
    assert after.quantization == opened(before).quantization
    assert PIL.JpegImagePlugin.get_sampling(after) == subsampling
    assert bool(after.info.get("progressive")) == (subsampling == 1)
    told = opened(encoding.encode(restored(before), format="jpeg", quality=95))
    assert told.quantization != after.quantization
    assert PIL.JpegImagePlugin.get_sampling(told) == 0


def test_a_grey_jpeg_stays_grey_while_its_pixels_are() -> None:
    before = save(picture()[..., 0], "JPEG")
    assert opened(encoding.encode(restored(before), format="jpeg")).mode == "L"
    coloured = restored(before)
    coloured.pixels[FACE] = (200, 150, 100)
    assert opened(encoding.encode(coloured, format="jpeg")).mode == "RGB"


def test_a_lossless_webp_stays_lossless_and_a_lossy_one_lossy() -> None:
    for lossless in (True, False):
        taken = restored(save(picture(), "WEBP", lossless=lossless))
        data = encoding.encode(taken, format="webp")
        assert (b"VP8L" in data) == lossless
        if lossless:
            assert np.array_equal(np.asarray(opened(data)), taken.pixels)
    assert b"VP8L" not in encoding.encode(taken, format="webp", quality=80)


def deep_picture() -> Any:
    deep = picture().astype(np.uint16) * 257
    return deep ^ np.random.default_rng(0).integers(0, 100, deep.shape).astype(np.uint16)


@pytest.mark.parametrize("kind", ["png", "tiff", "grey png", "png with transparency"])
def test_sixteen_bits_stay_outside_of_the_faces(kind: str) -> None:
    deep = deep_picture()
    stored = deep[..., 0] if "grey" in kind else deep
    if "transparency" in kind:
        veil = np.linspace(0, 65535, 96).astype(np.uint16)
        stored = np.dstack([deep, np.tile(veil, (64, 1))])
    if kind == "tiff":
        file = io.BytesIO()
        tifffile.imwrite(file, stored, photometric="rgb")
        data = file.getvalue()
    else:
        bgr = stored if stored.ndim == 2 else stored[..., [2, 1, 0, 3][: stored.shape[2]]]
        data = bytes(cv2.imencode(".png", bgr)[1])
    taken = restored(data)
    written = encoding.write(taken, format="png")
    back = cv2.imdecode(np.frombuffer(written.data, np.uint8), cv2.IMREAD_UNCHANGED)
    back = back if back.ndim == 2 else back[..., [2, 1, 0, 3][: back.shape[2]]]
    assert back.dtype == np.uint16
    assert np.array_equal(back[outside()], stored[outside()])
    assert written.notes == ["16 bits are kept; the restored faces have the detail of 8"]
    if back.ndim == 3 and back.shape[2] == 3:
        assert np.abs(back[FACE] / 257 - taken.pixels[FACE]).max() <= 0.5
    assert "16 bits became 8" in encoding.write(taken, format="jpeg").notes


@pytest.mark.parametrize("format_", ["png", "webp"])
def test_transparency_stays_and_is_said_to_be_lost_in_a_jpeg(format_: FileFormat) -> None:
    veil = np.tile(np.linspace(0, 255, 96).astype(np.uint8), (64, 1))
    rgba = np.dstack([picture(), veil])
    options = {"lossless": True, "exact": True} if format_ == "webp" else {}
    taken = restored(save(rgba, format_, **options))
    # A veiled colour over white is light: a darker one cannot be seen through it.
    taken.pixels[FACE] = photograph.read(save(rgba, format_, **options)).pixels[FACE] + 5
    after = np.asarray(opened(encoding.encode(taken, format=format_)))
    assert np.array_equal(after[outside()], rgba[outside()])
    over_white = after[..., :3] * (veil / 255)[..., None] + 255 - veil[..., None]
    assert np.abs(over_white[FACE] - taken.pixels[FACE]).max() <= 2
    assert encoding.write(taken, format="jpeg").notes == ["transparency was laid over white"]


def cmyk_profile() -> bytes:
    """Make a profile of CMYK of which the darkest ink is grey: naive conversion gives black.

    ICC.1:2010, 10.10 (lut8Type): 2 grid points per channel, Lab at each.
    """
    grid = []
    for inks in np.ndindex(2, 2, 2, 2):
        light = 255 - 30 * sum(inks)  # L*, 8 bits
        grid += [light, 128 + 40 * (inks[1] - inks[0]), 128 + 40 * (inks[2] - inks[0])]
    straight = bytes(range(256))
    matrix = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    lut = b"mft1\0\0\0\0" + bytes((4, 3, 2, 0)) + matrix + 4 * straight + bytes(grid) + 3 * straight
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)
    text = b"text\0\0\0\0none\0"
    described = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + bytes(78)
    tags, body, at = b"", b"", 128 + 4 + 12 * 4
    for name, tag in ((b"desc", described), (b"cprt", text), (b"wtpt", white), (b"A2B0", lut)):
        tag = tag + bytes(-len(tag) % 4)
        tags += name + struct.pack(">II", at + len(body), len(tag))
        body += tag
    size = at + len(body)
    header = struct.pack(">I", size) + b"none" + b"\x02\x10\0\0" + b"prtrCMYKLab "
    header += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + struct.pack(">I", 4) + tags + body


@pytest.mark.parametrize("format_", ["TIFF", "JPEG"])
def test_cmyk_becomes_srgb_by_its_profile(format_: str) -> None:
    profile = cmyk_profile()
    cmyk = PIL.Image.fromarray(picture()).convert("CMYK")
    quality = {"quality": 98, "subsampling": 0} if format_ == "JPEG" else {}
    data = save(cmyk, format_, icc_profile=profile, **quality)
    expected = PIL.ImageCms.profileToProfile(
        cmyk,
        PIL.ImageCms.ImageCmsProfile(io.BytesIO(profile)),
        PIL.ImageCms.createProfile("sRGB"),
        outputMode="RGB",
    )
    assert expected is not None
    read = photograph.read(data)
    error = np.abs(read.pixels.astype(int) - np.asarray(expected)).mean()
    assert error <= (3 if format_ == "JPEG" else 0.01)
    assert np.abs(read.pixels.astype(int) - np.asarray(cmyk.convert("RGB"))).mean() > 10
    assert read.notes == ("CMYK became sRGB by its profile",)
    written = opened(encoding.encode(read, format="png")).info["icc_profile"]
    assert PIL.ImageCms.getProfileDescription(io.BytesIO(written)).startswith("sRGB")


def test_wide_gamut_keeps_its_numbers_and_its_profile() -> None:
    wide = SRGB[:60] + b"other" + SRGB[65:]  # another profile for RGB
    taken = photograph.read(save(picture(), "TIFF", icc_profile=wide))
    assert np.array_equal(taken.pixels, picture())
    assert opened(encoding.encode(taken, format="png")).info["icc_profile"] == wide


@pytest.mark.parametrize(
    ("format_", "note"),
    [
        ("GIF", "of an animation of 2 pictures, the result has the first"),
        ("WEBP", "of an animation of 2 pictures, the result has the first"),
        ("PNG", "of an animation of 2 pictures, the result has the first"),
        ("TIFF", "of 2 pages, the result has the first"),
        ("MPO", "of 2 pictures in the file, the result has the first"),
    ],
)
def test_what_only_the_first_picture_stands_for_is_said(format_: str, note: str) -> None:
    first, second = (PIL.Image.fromarray(one) for one in (picture(), picture()[::-1]))
    data = save(first, format_, save_all=True, append_images=[second])
    taken = photograph.read(data)
    assert note in encoding.write(taken, format=taken.format).notes


@pytest.mark.parametrize(
    ("options", "output", "is_nothing"),
    [
        ({}, {}, True),
        ({}, {"format": "jpeg"}, True),
        ({"min_face": 40}, {}, True),
        ({"scale": 2}, {}, False),
        ({}, {"format": "png"}, False),
        ({}, {"quality": 95}, False),
        ({}, {"strip_metadata": True}, False),
    ],
)
def test_a_file_stays_as_it_is_unless_something_is_asked_for(
    options: dict[str, Any], output: dict[str, Any], is_nothing: bool
) -> None:
    taken = photograph.read(save(picture(), "JPEG"))
    asked = RestoreOptions(**options), OutputOptions(**output)
    assert encoding.is_nothing_asked(taken, *asked) == is_nothing
