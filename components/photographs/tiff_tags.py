"""What a TIFF says about its picture, beside its pixels, as a block of EXIF data.

The entries of a TIFF are EXIF's, but they lie between its pixels: their bytes are copied, with
their types, into a block of their own.
"""

from __future__ import annotations

import struct
from typing import NamedTuple, TypeAlias

from components.photographs.exif_block import EXIF_IFD, ORIENTATION, Structure

_GPS_IFD, _INTEROP_IFD = 0x8825, 0xA005
_DIRECTORIES = {EXIF_IFD, _GPS_IFD, _INTEROP_IFD}
XMP, IPTC, PHOTOSHOP = 700, 33_723, 34_377
LAYERS = 37_724  # of Photoshop
# How the pixels are stored, where they lie, and what is a block of its own.
_OF_PIXELS = {
    *range(254, 260),
    *(262, 263, 264, 265, 266, 273, 277, 278, 279, 284, 288, 289, 290, 291, 292, 293, 301, 317),
    *range(318, 347),
    *(347, *range(512, 522), 529, 530, 531, 532, 559, XMP, ORIENTATION),
}
_LAST_BASELINE = 0x8000  # above: private tags, of which these are EXIF's
_PRIVATE = {0x8298, EXIF_IFD, _GPS_IFD, *range(0x9C9B, 0x9CA0)}
_LONGEST = 1_000_000  # bytes of one value; longer ones describe no picture
_SIZES = {0xA002, 0xA003}

_Values: TypeAlias = "dict[int, tuple[int, int, bytes | _Values]]"


class Tags(NamedTuple):
    """The blocks of a TIFF."""

    exif: bytes | None
    xmp: bytes | None
    iptc: bytes | None
    photoshop: bytes | None
    has_layers: bool


def read(data: bytes) -> Tags:
    """Read the blocks of a TIFF. Raises: ValueError if its structure is broken (or a BigTIFF's)."""
    structure = Structure(data)
    blocks = {
        entry.tag: data[entry.value : entry.value + entry.size]
        for entry in structure.entries(structure.first)
        if entry.tag in (XMP, IPTC, PHOTOSHOP)
    }
    tags = {entry.tag for entry in structure.entries(structure.first)}
    values = _values(structure, structure.first, depth=0)
    return Tags(
        _serialised(structure.order, values) if values else None,
        blocks.get(XMP),
        blocks.get(IPTC),
        blocks.get(PHOTOSHOP),
        LAYERS in tags,
    )


def _values(structure: Structure, directory: int, *, depth: int) -> _Values:
    values: _Values = {}
    for entry in structure.entries(directory):
        if depth == 0 and not _describes(entry.tag):
            continue
        if entry.tag in _DIRECTORIES and depth < 2:
            nested = _values(structure, structure.whole(entry), depth=depth + 1)
            if nested:
                values[entry.tag] = (4, 1, nested)
        elif entry.size <= _LONGEST and entry.tag not in _SIZES:
            value = structure.data[entry.value : entry.value + entry.size]
            if len(value) == entry.size:
                values[entry.tag] = (entry.type, entry.length, value)
    return values


def _describes(tag: int) -> bool:
    return tag in _PRIVATE or (tag < _LAST_BASELINE and tag not in _OF_PIXELS)


def _serialised(order: str, values: _Values) -> bytes:
    head = b"II*\0" if order == "<" else b"MM\0*"
    return head + struct.pack(f"{order}I", 8) + _directory(order, values, start=8)


def _directory(order: str, values: _Values, *, start: int) -> bytes:
    """Write a directory that begins at `start`, its values behind it."""
    entries = []
    after = b""
    at = start + 2 + 12 * len(values) + 4
    for tag, (kind, count, value) in sorted(values.items()):
        if isinstance(value, dict):
            place = at + len(after)
            after += _directory(order, value, start=place)
            field = struct.pack(f"{order}I", place)
        elif len(value) > 4:
            field = struct.pack(f"{order}I", at + len(after))
            after += value + b"\0" * (len(value) % 2)
        else:
            field = value.ljust(4, b"\0")
        entries.append(struct.pack(f"{order}HHI", tag, kind, count) + field)
    return struct.pack(f"{order}H", len(values)) + b"".join(entries) + bytes(4) + after
