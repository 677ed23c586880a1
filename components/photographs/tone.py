"""Keep the toning of a picture: black and white stays so, and sepia, duotone or faded paper too.

In a toned picture, each lightness has one colour: grey, or that of the print. A colour photograph
has many. The rule: if the colours of a face follow its lightness, the restored face keeps only its
own lightness, and takes the colour of each lightness from the face as it was.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from components.images import Image

# How far colours are from those of their lightness, root mean square: in levels of 255, or as a
# share of how colourful the picture is. Prints, as JPEG of quality 30 and better, are below one of
# the two; 140 colour faces were above both, by FADE and more. Between is a mixture, so that a face
# of a film does not jump from one to the other.
MAX_SPREAD, MAX_SHARE, FADE = 4.5, 0.14, 0.15
_SIDE = 32  # pixels at which colours are compared: noise and JPEG's blocks are averaged out
_NEAR = 4.0  # levels: over how many the colour of a lightness is averaged
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)

Colors = npt.NDArray[np.float32]


class Tone(NamedTuple):
    """The colours of a toned face."""

    colors: Colors  # (256, 3), what is added to each level of grey
    share: float  # 1: it is toned, 0: it is a colour picture


def tone_of(face: Image) -> Tone:
    """Find the colour of each lightness of a picture, uint8 (H, W, 3), and whether it has but one.

    A picture whose colours are all grey is returned with exactly no colour.
    """
    luma = face @ _LUMA
    level = np.rint(luma).astype(np.uint8)
    own = face - luma[..., None]
    own[(face == face[..., :1]).all(axis=-1)] = 0  # not the last bit of a sum
    colors = _colors(level, own)
    off = cv2.resize(own - colors[level], (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    spread, strength = _length(off), _length(colors[level])
    distance = min(spread / MAX_SPREAD, spread / MAX_SHARE / max(strength, 1e-6))
    return Tone(colors, min(1.0, max(0.0, (1 + FADE - distance) / FADE)))


def in_tone(face: Image, tone: Tone) -> Image:
    """Give a picture, uint8 (H, W, 3), the colours of a tone; its lightness stays."""
    if tone.share == 0:
        return face
    level = np.rint(face @ _LUMA).astype(np.uint8)
    table = (np.arange(256, dtype=np.float32)[:, None] + tone.colors).clip(0, 255)
    if tone.share == 1:
        return np.asarray(np.rint(table).astype(np.uint8)[level])
    mixed = face + tone.share * (table[level] - face)
    return np.asarray(np.rint(mixed), dtype=np.uint8)


def _length(colors: Colors) -> float:
    return float(np.sqrt((colors**2).sum(axis=-1).mean()))


def _colors(level: Image, own: Colors) -> Colors:
    """Average the colours at and near each level; beyond the darkest and lightest, the last."""
    flat, levels = level.ravel(), np.arange(256)
    counts = np.bincount(flat, minlength=256)
    sums = np.stack([np.bincount(flat, part.ravel(), 256) for part in np.moveaxis(own, -1, 0)])
    apart = levels[:, None] - levels
    weights = np.exp(-0.5 * (apart / _NEAR) ** 2) + 1e-9  # so that each level has some
    mean = (weights @ sums.T) / (weights @ counts)[:, None]
    return np.asarray(mean[levels.clip(flat.min(), flat.max())], dtype=np.float32)
