"""Read the size of a JPEG XL from its header (ISO/IEC 18181-1, SizeHeader), and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

_BARE = b"\xff\x0a"  # how a codestream starts
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
_BITS = (9, 13, 18, 30)


def read(data: bytes) -> tuple[int, int]:
    """Return width and height in pixels, as stored. Raises: ValueError if there is no header."""
    header = next(_codestream(data), b"")
    if not header.startswith(_BARE):
        raise ValueError("a JPEG XL without pixels")
    bits = _Bits(header[2:16])
    if bits.take(1):
        height = 8 * (bits.take(5) + 1)
        ratio = bits.take(3)
        width = _width(height, ratio) or 8 * (bits.take(5) + 1)
    else:
        height = bits.take(_BITS[bits.take(2)]) + 1
        ratio = bits.take(3)
        width = _width(height, ratio) or bits.take(_BITS[bits.take(2)]) + 1
    return width, height


def _width(height: int, ratio: int) -> int:
    if ratio == 0:
        return 0
    across, down = _RATIOS[ratio - 1]
    return height * across // down


def _codestream(data: bytes) -> Iterator[bytes]:
    """Give the codestream's parts: the whole file, or what its boxes hold."""
    if data.startswith(_BARE):
        yield data
        return
    at = 0
    while at + 8 <= len(data):
        size, start = int.from_bytes(data[at : at + 4], "big"), at + 8
        if size == 1:
            size, start = int.from_bytes(data[at + 8 : at + 16], "big"), at + 16
        kind = data[at + 4 : at + 8]
        if kind == b"jxlc":
            yield data[start : start + 64]
        elif kind == b"jxlp":  # a part, after its number
            yield data[start + 4 : start + 68]
        if size < 8:  # 0: the box reaches to the end
            return
        at += size


class _Bits:
    """Bits from the lowest of the first byte on."""

    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, "little"), 8 * len(data)

    def take(self, number: int) -> int:
        if number > self._left:
            raise ValueError("a JPEG XL that ends in its header")
        taken = self._value & ((1 << number) - 1)
        self._value >>= number
        self._left -= number
        return taken
