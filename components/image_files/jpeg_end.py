"""Tell a JPEG that lacks only its end marker, as cut downloads do, from one that lacks pixels."""

from __future__ import annotations

import io
from collections.abc import Iterator

import PIL.Image

_SOS, _EOI = 0xDA, b"\xff\xd9"
_ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a length
# If pixels are missing, the decoder takes what follows for them. Then two endings give two
# pictures. If none is missing, it skips what follows.
_ENDINGS = (bytes(4096), b"\xa5\x5a\x3c\x96" * 1024)


def completed(data: bytes) -> PIL.Image.Image | None:
    """Decode a JPEG with the end marker that it lacks; None if it lacks more than that."""
    data = data.removesuffix(b"\xff")
    if not _ends_after_last_scan(data):
        return None
    pictures = []
    for ending in _ENDINGS:
        try:
            picture = PIL.Image.open(io.BytesIO(data + ending + _EOI), formats=("JPEG",))
            picture.load()
        except (OSError, SyntaxError, ValueError):
            return None
        pictures.append(picture)
    first, second = pictures
    return first if first.tobytes() == second.tobytes() else None


def _ends_after_last_scan(data: bytes) -> bool:
    """Return whether the data end within a scan, and no later scan is due.

    A progressive JPEG refines its coefficients scan by scan: it is whole when the last bit of each
    was sent. `precision` holds the lowest bit so far, by component and coefficient.
    """
    precision: dict[tuple[int, int], int] = {}
    num_components, progressive, marker = 0, False, 0
    for marker, payload in _segments(data):
        if marker in (0xC0, 0xC1, 0xC2) and len(payload) > 5:
            num_components, progressive = payload[5], marker == 0xC2
        if marker == _SOS and payload and len(payload) >= 2 * payload[0] + 4:
            count = payload[0]
            first, last, bits = payload[2 * count + 1 : 2 * count + 4]
            for component in payload[1 : 2 * count + 1 : 2]:
                precision |= {(component, at): bits & 15 for at in range(first, min(last, 63) + 1)}
    if marker != _SOS:
        return False
    if not progressive:
        return len({component for component, _ in precision}) == num_components
    return len(precision) == 64 * num_components and not any(precision.values())


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Give each marker with what its segment holds; the entropy-coded data are passed over."""
    at = 2
    while (at := data.find(b"\xff", at)) >= 0 and at + 1 < len(data):
        marker = data[at + 1]
        if marker in (0x00, 0xFF) or marker in _ALONE:
            at += 1 if marker == 0xFF else 2
            continue
        size = int.from_bytes(data[at + 2 : at + 4], "big")
        if size < 2 or at + 2 + size > len(data):
            yield marker, b""  # it is cut within a segment
            return
        yield marker, data[at + 4 : at + 2 + size]
        at += 2 + size
