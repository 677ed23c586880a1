import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from components import images
from components.images import ImageError

HEIGHT, WIDTH = 24, 40


def _picture() -> images.Image:
    """Make a smooth picture, so that JPEG keeps it; the red corner top left shows its rotation."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float64)
    picture = np.stack([120 + x, 80 + 3 * y, 200 - 2 * x], axis=-1)
    picture[:8, :8] = (250, 10, 10)
    return np.rint(picture).astype(np.uint8)


def _file(picture: PIL.Image.Image, format_: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format_, **options)
    return buffer.getvalue()


def _close(left: images.Image, right: images.Image, by: float) -> bool:
    return left.shape == right.shape and float(np.abs(left.astype(int) - right).mean()) <= by


@pytest.mark.parametrize(
    ("format_", "options", "mean_error"),
    [
        ("PNG", {}, 0),
        ("BMP", {}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("WEBP", {"quality": 95}, 4),
        ("JPEG", {"quality": 95, "subsampling": 0}, 3),
        ("JPEG", {"quality": 95, "subsampling": 0, "progressive": True}, 3),
    ],
)
def test_every_format_is_read(format_: str, options: dict[str, Any], mean_error: float) -> None:
    data = _file(PIL.Image.fromarray(_picture()), format_, **options)
    decoded = images.decode(data)
    assert decoded.dtype == np.uint8
    assert _close(decoded, _picture(), mean_error)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_turns_the_picture_upright(format_: str, orientation: int) -> None:
    stored: Callable[[images.Image], images.Image] = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation]
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {"exif": exif}
    if format_ == "JPEG":
        options |= {"quality": 98, "subsampling": 0}
    if format_ == "WEBP":
        options |= {"lossless": True}
    lying = PIL.Image.fromarray(np.ascontiguousarray(stored(_picture())))
    assert _close(images.decode(_file(lying, format_, **options)), _picture(), 2.5)


def test_transparent_pictures_get_a_white_background() -> None:
    rgba = np.dstack([_picture(), np.full((HEIGHT, WIDTH), 255, np.uint8)])
    rgba[:, :20, 3] = 0
    rgba[:, 20:30, 3] = 51  # a fifth of the picture, four fifths of white
    for format_ in ("PNG", "TIFF", "WEBP"):
        options = {"lossless": True, "exact": True} if format_ == "WEBP" else {}
        decoded = images.decode(_file(PIL.Image.fromarray(rgba), format_, **options))
        assert (decoded[:, :20] == 255).all()
        blend = 0.2 * _picture()[:, 20:30].astype(float) + 0.8 * 255
        assert np.abs(decoded[:, 20:30] - blend).max() <= 1
        assert (decoded[:, 30:] == _picture()[:, 30:]).all()


def test_grey_with_alpha_and_palette_with_a_transparent_colour() -> None:
    grey = PIL.Image.fromarray(_picture()).convert("L")
    veiled = grey.copy()
    veiled.putalpha(0)
    assert (images.decode(_file(veiled, "PNG")) == 255).all()
    palette = PIL.Image.fromarray(_picture()).quantize(16)
    gone = palette.getpixel((0, 0))
    decoded = images.decode(_file(palette, "PNG", transparency=gone))
    assert (decoded[0, 0] == 255).all()
    assert (decoded[-1, -1] == np.asarray(palette.convert("RGB"))[-1, -1]).all()


def test_palette_grey_and_one_bit() -> None:
    source = PIL.Image.fromarray(_picture())
    for mode in ("P", "L", "1"):
        picture = source.convert(mode)
        expected = np.asarray(picture.convert("RGB"))
        for format_ in ("PNG", "BMP", "TIFF"):
            assert (images.decode(_file(picture, format_)) == expected).all()


def test_cmyk_has_the_colours_of_the_rgb_it_was_made_from() -> None:
    cmyk = PIL.Image.fromarray(_picture()).convert("CMYK")
    assert _close(images.decode(_file(cmyk, "TIFF")), _picture(), 1.5)
    assert _close(images.decode(_file(cmyk, "JPEG", quality=98, subsampling=0)), _picture(), 4)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_sixteen_bits_become_eight(suffix: str, channels: int) -> None:
    deep = _picture().astype(np.uint16) * 257
    deep[0, 0], deep[0, 1] = 65535, 0
    stored = deep[..., 0] if channels == 1 else deep
    if channels == 4:
        stored = np.dstack([deep, np.full((HEIGHT, WIDTH), 65535, np.uint16)])
    if suffix == ".tiff":
        buffer = io.BytesIO()
        photometric = "minisblack" if channels == 1 else "rgb"
        extra = {"extrasamples": ["unassalpha"]} if channels == 4 else {}
        tifffile.imwrite(buffer, stored, photometric=photometric, **extra)
        data = buffer.getvalue()
    else:
        bgr = stored if channels == 1 else stored[..., [2, 1, 0, 3][:channels]]
        data = bytes(cv2.imencode(suffix, bgr)[1])
    expected = deep[..., [0, 0, 0]] if channels == 1 else deep
    decoded = images.decode(data)
    assert np.abs(decoded - expected / 257).max() <= 1
    assert (decoded[0, 0] == 255).all()
    assert (decoded[0, 1] == 0).all()


def test_float_pixels_are_refused_since_their_range_is_unknown() -> None:
    floats = PIL.Image.fromarray(np.zeros((32, 32), np.float32))
    with pytest.raises(ImageError, match="pixels of type F"):
        images.decode(_file(floats, "TIFF"))


def test_a_phone_s_multi_picture_file_gives_its_first_picture() -> None:
    first = PIL.Image.fromarray(_picture())
    second = PIL.Image.new("RGB", first.size, "blue")
    data = _file(first, "MPO", save_all=True, append_images=[second], quality=98, subsampling=0)
    assert _close(images.decode(data), _picture(), 2.5)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "it is empty"),
        (b"this is text, named .jpg", "it starts with b'this is text'"),
        (b"GIF89a" + bytes(40), "not a JPEG"),
    ],
)
def test_a_file_that_is_not_a_picture_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        images.decode(data)


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("part", [0.3, 0.6, 0.9])
def test_a_truncated_file_is_refused(format_: str, part: float) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = _file(PIL.Image.fromarray(noise), format_)
    with pytest.raises(ImageError):
        images.decode(data[: int(part * len(data))])


def _png_header(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    return (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    )


@pytest.mark.parametrize("side", [10_001, 12_000, 60_000])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_decompression_bomb_is_refused_before_it_is_decoded(side: int) -> None:
    pixels = zlib.compress(bytes(1000))
    idat = b"IDAT" + pixels
    bomb = _png_header(side, side) + struct.pack(">I", len(pixels)) + idat
    with pytest.raises(ImageError, match="too large"):
        images.decode(bomb + struct.pack(">I", zlib.crc32(idat)))


def test_a_three_pixel_picture_is_refused() -> None:
    with pytest.raises(ImageError, match="too small: 3 x 3"):
        images.decode(_file(PIL.Image.new("RGB", (3, 3)), "PNG"))


_SAMPLES = {
    format_: _file(PIL.Image.fromarray(_picture()), format_)
    for format_ in ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
}


@settings(max_examples=150, deadline=None)
@given(
    format_=st.sampled_from(sorted(_SAMPLES)),
    changes=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=6),
    end=st.integers(0, 3000),
)
@pytest.mark.filterwarnings("ignore")
def test_broken_bytes_give_a_picture_or_a_reason(
    format_: str, changes: list[tuple[int, int]], end: int
) -> None:
    data = bytearray(_SAMPLES[format_])
    for place, value in changes:
        data[place % len(data)] = value
    try:
        decoded = images.decode(bytes(data[:end]), max_pixels=1_000_000)
    except ImageError:
        return  # and no other exception: that is what is tested
    assert decoded.dtype == np.uint8
    assert decoded.shape[2] == 3


_PICTURES = hnp.arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(3)))


@settings(max_examples=50, deadline=None)
@given(_PICTURES)
def test_a_png_round_trip_changes_no_bit(picture: images.Image) -> None:
    png = images.encode_png(picture)
    assert images.encode_png(picture.copy()) == png
    assert (images.decode_png(png) == picture).all()
    assert (images.decode(png, min_side=1) == picture).all()


@settings(max_examples=30, deadline=None)
@given(_PICTURES)
def test_a_tensor_round_trip_changes_no_bit(picture: images.Image) -> None:
    tensor_B3HW = images.to_tensor([picture, images.mirror(picture)])
    assert tensor_B3HW.shape == (2, 3, *picture.shape[:2])
    assert tensor_B3HW.dtype == torch.float32
    assert 0 <= float(tensor_B3HW.min()) <= float(tensor_B3HW.max()) <= 1
    back, mirrored = images.from_tensor(tensor_B3HW)
    assert (back == picture).all()
    assert (images.mirror(mirrored) == picture).all()


def test_from_tensor_clamps_and_rounds_half_to_even() -> None:
    values = torch.tensor([-0.2, 0.5 / 255, 1.5 / 255, 2.5 / 255, 1.7])
    picture = images.from_tensor(values.double().expand(1, 3, 1, 5))[0]
    assert picture[0, :, 0].tolist() == [0, 0, 2, 2, 255]


def test_resize_averages_what_it_shrinks() -> None:
    checker = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    shrunk = images.resize(np.repeat(checker[..., None], 3, axis=2), 16)
    assert shrunk.shape == (16, 16, 3)
    assert np.abs(shrunk.astype(float) - 127.5).max() <= 0.5
    square = _picture()[:, :24]
    assert images.resize(square, 24) is square
    assert images.resize(square, 48).shape == (48, 48, 3)


def test_resize_and_encode_refuse_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="40 x 24"):
        images.resize(_picture(), 16)
    with pytest.raises(ValueError, match="float64"):
        images.encode_png(_picture().astype(np.float64))  # type: ignore[arg-type]
    with pytest.raises(ImageError, match="not a PNG of this project"):
        images.decode_png(b"no")
