"""EXIF data as one block: copied, with no more taken out than is no longer true.

The block is a TIFF structure without pixels. What it holds stays where it is, since a maker note
may point into it from anywhere.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

_PREFIX = b"Exif\0\0"
ORIENTATION, EXIF_IFD = 0x0112, 0x8769
_WIDTH, _HEIGHT = 0xA002, 0xA003
# Where a thumbnail lies, and how long it is: one encoded as JPEG, or one of plain pixels.
_THUMBNAILS = ((0x0201, 0x0202), (0x0111, 0x0117))
_SHORT, _LONG = 3, 4
_TYPE_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}


class Entry(NamedTuple):
    """An entry of a directory."""

    at: int  # where it lies
    tag: int
    type: int
    length: int  # of the value, in units of its type
    value: int  # where its value lies

    @property
    def size(self) -> int:
        """How many bytes its value has."""
        return _TYPE_SIZES.get(self.type, 1) * self.length


class Structure:
    """Bytes that are a TIFF structure. Raises: ValueError if they are none."""

    def __init__(self, data: bytes) -> None:
        if data[:4] not in (b"II*\0", b"MM\0*") or len(data) < 8:
            raise ValueError("no TIFF structure")
        self.data = data
        self.order = "<" if data[:1] == b"I" else ">"
        self.first = self.number(4, 4)

    def number(self, at: int, size: int) -> int:
        """Read a whole number. Raises: ValueError if it lies outside."""
        if at + size > len(self.data):
            raise ValueError("a TIFF structure that points outside of itself")
        return int.from_bytes(self.data[at : at + size], "little" if self.order == "<" else "big")

    def entries(self, directory: int) -> Iterator[Entry]:
        """Give the entries of a directory. Raises: ValueError if it is cut off."""
        for number in range(self.number(directory, 2)):
            at = directory + 2 + 12 * number
            tag, kind, count = self.number(at, 2), self.number(at + 2, 2), self.number(at + 4, 4)
            entry = Entry(at, tag, kind, count, at + 8)
            if entry.size > 4:
                entry = entry._replace(value=self.number(at + 8, 4))
            yield entry

    def whole(self, entry: Entry) -> int:
        """Read an entry's first whole number."""
        return self.number(entry.value, 2 if entry.type == _SHORT else 4)

    def next(self, directory: int) -> int:
        """Return where the place of the next directory is written."""
        return directory + 2 + 12 * self.number(directory, 2)


def upright(block: bytes) -> bytes:
    """Take orientation, size and thumbnail out of EXIF data; the rest stays to the byte.

    Raises: ValueError if they cannot be read.
    """
    block = block.removeprefix(_PREFIX)
    structure = Structure(block)
    data = bytearray(block)
    main = list(structure.entries(structure.first))
    camera = next((structure.whole(one) for one in main if one.tag == EXIF_IFD), None)
    following = structure.number(structure.next(structure.first), 4)
    if following:
        at = structure.next(structure.first)
        data[at : at + 4] = bytes(4)
    _remove(structure, structure.first, {ORIENTATION}, data)
    if camera is not None:
        _remove(structure, camera, {_WIDTH, _HEIGHT}, data)
    if following:
        _wipe_thumbnail(structure, following, data)
    return bytes(data)


def _remove(structure: Structure, directory: int, tags: set[int], data: bytearray) -> None:
    """Move the entries that follow up; the directory gets shorter, its values stay in place."""
    entries = list(structure.entries(directory))
    kept = [entry for entry in entries if entry.tag not in tags]
    end = structure.next(directory) + 4
    rest = b"".join(bytes(data[entry.at : entry.at + 12]) for entry in kept)
    following = bytes(data[end - 4 : end])
    count = struct.pack(f"{structure.order}H", len(kept))
    data[directory:end] = (count + rest + following).ljust(end - directory, b"\0")


def _wipe_thumbnail(structure: Structure, directory: int, data: bytearray) -> None:
    try:
        there = {entry.tag: entry for entry in structure.entries(directory)}
        for where, length in _THUMBNAILS:
            if where in there and length in there:
                start, size = structure.whole(there[where]), structure.whole(there[length])
                end = min(start + size, len(data))
                if start < structure.next(structure.first) + 4:
                    continue  # where the directory lies, no thumbnail can
                if end == len(data):
                    del data[start:]
                elif start < end:
                    data[start:end] = bytes(end - start)
    except ValueError:  # a broken directory of the thumbnail, which is no longer reached
        return
