"""Kinds of files: told by what they hold, bounded before they are decoded, refused in words."""

import io
import sys
from typing import Any

import numpy as np
import PIL.Image
import pytest

from components import images
from components.image_files import jxl_size, kinds
from components.images import ImageError


def picture() -> images.Image:
    y, x = np.mgrid[0:64, 0:96].astype(np.float64)
    return np.rint(np.stack([60 + x, 40 + 2 * y, 200 - x], axis=-1)).astype(np.uint8)


def file(format_: str, pixels: Any = None, **options: Any) -> bytes:
    data = io.BytesIO()
    PIL.Image.fromarray(picture() if pixels is None else pixels).save(data, format_, **options)
    return data.getvalue()


@pytest.mark.parametrize(
    ("kind", "format_", "error"),
    [
        (kinds.GIF, "GIF", 8),
        (kinds.AVIF, "AVIF", 4),
        (kinds.JPEG_2000, "JPEG2000", 0),
        (kinds.PNM, "PPM", 0),
        (kinds.HEIC, "HEIF", 4),
        (kinds.JPEG_XL, "JXL", 4),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_other_kinds_are_read_and_bounded(kind: kinds.Kind, format_: str, error: float) -> None:
    if kind is kinds.HEIC:
        pytest.importorskip("pillow_heif").register_heif_opener()
    if kind is kinds.JPEG_XL:
        pytest.importorskip("pillow_jxl")
    data = file(format_)
    assert kinds.of(data[: kinds.START]) is kind
    assert np.abs(images.decode(data).astype(int) - picture()).mean() <= error
    with pytest.raises(ImageError, match="too large: 96 x 64, at most 1,000 pixels"):
        images.decode(data, max_pixels=1000)
    with pytest.raises(ImageError):
        images.decode(data[: len(data) // 2])


@pytest.mark.parametrize(
    ("start", "package"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "pillow-heif"),
        (b"\xff\x0a", "pillow-jxl-plugin"),
    ],
)
def test_without_its_plugin_a_kind_says_what_to_install(
    start: bytes, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("pillow_heif", "pillow_jxl"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImageError, match=f"to read it, run 'pip install {package}'"):
        images.decode(start + bytes(100))


def test_the_size_of_a_jpeg_xl_is_read_without_its_plugin() -> None:
    """Headers written by hand, after ISO/IEC 18181-1, SizeHeader: the lowest bit first."""

    def header(*fields: tuple[int, int]) -> bytes:
        value = at = 0
        for number, bits in fields:
            value |= number << at
            at += bits
        return b"\xff\x0a" + value.to_bytes(16, "little")

    small = header((1, 1), (7, 5), (0, 3), (11, 5))  # multiples of 8
    assert jxl_size.read(small) == (96, 64)
    large = header((0, 1), (2, 2), (99_999, 18), (0, 3), (1, 2), (4999, 13))
    assert jxl_size.read(large) == (5000, 100_000)
    ratio = header((0, 1), (1, 2), (1079, 13), (5, 3))  # 16:9
    assert jxl_size.read(ratio) == (1920, 1080)
    boxes = b"\0\0\0\x0cJXL \r\n\x87\n" + b"\0\0\0\x14ftypjxl \0\0\0\0jxl \0\0\0\0jxlc" + large
    assert jxl_size.read(boxes) == (5000, 100_000)
    for broken in (b"\xff\x0a\0", b"\0\0\0\x0cJXL \r\n\x87\n"):
        with pytest.raises(ValueError, match="JPEG XL"):
            jxl_size.read(broken)


NOISE = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 98, "subsampling": 0}])
@pytest.mark.parametrize("is_grey", [False, True])
def test_a_jpeg_without_its_end_marker_is_read(options: dict[str, Any], is_grey: bool) -> None:
    data = file("JPEG", NOISE[..., 0] if is_grey else NOISE, **options)
    for lacking in (1, 2):
        assert np.array_equal(images.decode(data[:-lacking]), images.decode(data))
    for lacking in (4, 8, 20, 300):  # pixels are missing
        with pytest.raises(ImageError, match="truncated"):
            images.decode(data[:-lacking])


def test_a_progressive_jpeg_cut_between_two_scans_is_refused() -> None:
    data = file("JPEG", NOISE, progressive=True)
    last_scan = data.rindex(b"\xff\xda")
    tables = data.rindex(b"\xff\xc4", 0, last_scan)  # the last scan has tables of its own
    for end in (tables, last_scan):
        with pytest.raises(ImageError, match="truncated"):
            images.decode(data[:end])
