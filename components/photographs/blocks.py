"""The blocks of picture files that hold no pixels: JPEG's segments and PNG's chunks."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

LONGEST_SEGMENT = 65_533  # bytes in a JPEG's segment, after its length
_SOI, _SOS, _EOI = 0xD8, 0xDA, 0xD9
_APP0 = 0xE0
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER_END = 33  # of a PNG: signature and IHDR


class Segment(NamedTuple):
    """A segment of a JPEG."""

    marker: int  # its second byte
    payload: bytes


class Chunk(NamedTuple):
    """A chunk of a PNG."""

    name: bytes
    payload: bytes


def segments(jpeg: bytes) -> Iterator[Segment]:
    """Give a JPEG's segments before its pixels; what is broken ends them."""
    at = 2
    while at + 4 <= len(jpeg) and jpeg[at] == 0xFF:
        marker = jpeg[at + 1]
        if marker == 0xFF:  # filling
            at += 1
            continue
        size = int.from_bytes(jpeg[at + 2 : at + 4], "big")
        if marker in (_SOS, _EOI) or size < 2 or at + 2 + size > len(jpeg):
            return
        yield Segment(marker, jpeg[at + 4 : at + 2 + size])
        at += 2 + size


def with_segments(jpeg: bytes, added: Iterable[Segment]) -> bytes:
    """Put segments into a JPEG, after its APP0. Raises: ValueError if one is too long."""
    at = 2
    if jpeg[2:4] == bytes((0xFF, _APP0)):
        at += 2 + int.from_bytes(jpeg[4:6], "big")
    blocks = []
    for marker, payload in added:
        if len(payload) > LONGEST_SEGMENT:
            raise ValueError(f"{len(payload):,} bytes do not fit into a segment of a JPEG")
        blocks.append(struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload)
    return jpeg[:at] + b"".join(blocks) + jpeg[at:]


def chunks(png: bytes) -> Iterator[Chunk]:
    """Give a PNG's chunks; what is broken ends them."""
    at = len(_SIGNATURE)
    while at + 12 <= len(png):
        size = int.from_bytes(png[at : at + 4], "big")
        if at + 12 + size > len(png):
            return
        name = png[at + 4 : at + 8]
        yield Chunk(name, b"" if name == b"IDAT" else png[at + 8 : at + 8 + size])
        at += 12 + size


def with_chunks(png: bytes, added: Iterable[Chunk]) -> bytes:
    """Put chunks into a PNG, after its header."""
    blocks = []
    for name, payload in added:
        check = struct.pack(">I", zlib.crc32(name + payload))
        blocks.append(struct.pack(">I", len(payload)) + name + payload + check)
    return png[:_HEADER_END] + b"".join(blocks) + png[_HEADER_END:]
