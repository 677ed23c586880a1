"""What a file's pixels have beyond 8-bit RGB: 16 bits, transparency, one grey channel.

Faces are found and restored in 8-bit RGB over white. The change that this makes, a difference that
is 0 outside of the faces, is then added to the file's own samples. So those are kept to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import PIL.Image

Pixels = npt.NDArray[np.uint8]
Array = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]

_ROWS = 256  # handled at once: a large picture's differences would take gigabytes
_TURNS: dict[int, Callable[[Any], Any]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90,
}
_ORIENTATION = 274
_READ_BY_OPENCV = ("RGB", "RGBA", "I;16", "I;16B", "L")


@dataclass(frozen=True)
class Samples:
    """An upright picture's own samples, and the 8-bit RGB that was shown of them."""

    shown: Pixels  # (H, W, 3)
    colours: Array  # (H, W, 3), not laid over white
    alpha: Array | None  # (H, W), of the same type

    @property
    def are_deep(self) -> bool:
        """Whether they have 16 bits."""
        return self.colours.dtype == np.uint16

    def changed(self, after: Pixels) -> tuple[Array, Array | None]:
        """Add to the samples what was changed in 8-bit RGB; return colours and transparency.

        Shape: `after` (H, W, 3) as `shown`. Raises: ValueError if its size is another one.
        """
        if after.shape != self.shown.shape:
            raise ValueError(f"samples of {self.shown.shape} cannot become {after.shape}")
        most = np.iinfo(self.colours.dtype).max
        colours = self.colours.copy()
        for rows in self._bands():
            change = after[rows].astype(np.float32) - self.shown[rows]
            where = change.any(axis=2)
            if not where.any():
                continue
            change = change[where] * (most / 255)
            if self.alpha is not None:  # over white, a change of a veiled colour shows less
                share = self.alpha[rows][where][:, None].astype(np.float32) / most
                change /= np.maximum(share, 1 / 255)
            mixed = colours[rows][where] + change
            colours[rows][where] = np.rint(mixed.clip(0, most)).astype(colours.dtype)
        return colours, self.alpha

    def _bands(self) -> Iterator[slice]:
        for top in range(0, self.shown.shape[0], _ROWS):
            yield slice(top, top + _ROWS)


def over_white(picture: PIL.Image.Image) -> Pixels:
    """Return 8-bit RGB (H, W, 3); transparency is laid over white."""
    if picture.mode == "RGBA":
        veiled, picture = picture, PIL.Image.new("RGB", picture.size, "white")
        picture.paste(veiled, mask=veiled.getchannel("A"))
    return np.array(picture, dtype=np.uint8)


def of_eight_bits(picture: PIL.Image.Image) -> Samples | None:
    """Return the samples of upright RGBA; None if nothing in it is transparent."""
    if picture.mode != "RGBA" or picture.getchannel("A").getextrema() == (255, 255):
        return None
    whole = np.asarray(picture)
    return Samples(over_white(picture), whole[..., :3].copy(), whole[..., 3].copy())


def of_sixteen_bits(data: bytes, picture: PIL.Image.Image) -> Samples | None:
    """Read all bits of a PNG or TIFF with 16; None if it has fewer, or they cannot be had.

    `picture` is what Pillow decoded of the same data, not yet turned: OpenCV, which reads the other
    bits, must agree with it.
    """
    if not are_sixteen_bits(data, picture) or picture.mode not in _READ_BY_OPENCV:
        return None
    try:
        read = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    if read is None or read.dtype != np.uint16:
        return None
    orientation = picture.getexif().get(_ORIENTATION, 1)
    # OpenCV turns a TIFF and leaves a PNG as it lies.
    deep: npt.NDArray[np.uint16] = np.asarray(read, dtype=np.uint16)
    if picture.format != "TIFF":
        deep = _turned(deep, orientation)
    deep = deep[..., None] if deep.ndim == 2 else deep
    alpha = deep[..., 3].copy() if deep.shape[2] == 4 else None
    colours = np.ascontiguousarray(deep[..., [0, 0, 0] if deep.shape[2] == 1 else [2, 1, 0]])
    return Samples(_shown(colours, alpha), colours, alpha)


def agree(samples: Samples, pixels: Pixels) -> bool:
    """Return whether samples show the same picture as 8-bit RGB of another decoder."""
    if samples.shown.shape != pixels.shape:
        return False
    return all(
        int(np.abs(samples.shown[rows].astype(np.int16) - pixels[rows]).max(initial=0)) <= 2
        for rows in samples._bands()
    )


def are_sixteen_bits(data: bytes, picture: PIL.Image.Image) -> bool:
    """Return whether a PNG or TIFF has 16 bits per channel."""
    if picture.format == "PNG":
        return data[24] == 16
    if picture.format != "TIFF":
        return False
    bits = getattr(picture, "tag_v2", {}).get(258, ())
    return set(bits if isinstance(bits, tuple) else (bits,)) == {16}


def _turned(pixels: npt.NDArray[np.uint16], orientation: int) -> npt.NDArray[np.uint16]:
    turn = _TURNS.get(orientation)
    return pixels if turn is None else np.ascontiguousarray(turn(pixels))


def _shown(colours: npt.NDArray[np.uint16], alpha: npt.NDArray[np.uint16] | None) -> Pixels:
    shown = np.empty(colours.shape, dtype=np.uint8)
    for top in range(0, colours.shape[0], _ROWS):
        rows = slice(top, top + _ROWS)
        part = colours[rows].astype(np.float32) / 257
        if alpha is not None:
            part = 255 + (part - 255) * (alpha[rows][..., None].astype(np.float32) / 65535)
        shown[rows] = np.rint(part)
    return shown
