"""Tone-map HDR colours (PQ and HLG) to SDR, as a table that ffmpeg's filter `lut3d` applies.

    signal -> light in nits -> BT.709's primaries -> BT.2390's curve -> gamma 2.4

The curve leaves all below about 90 nits as it is, faces among it, and rolls off what is brighter
up to the peak. It works on the largest of red, green and blue, so hues stay, and a red lamp does
not become pink. Diffuse white, 203 nits (ITU-R BT.2408), comes to 231 of 255, which leaves room
for highlights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

Colours = npt.NDArray[np.float64]  # (..., 3), red, green, blue
Transfer = Literal["smpte2084", "arib-std-b67"]  # PQ and HLG, as ffmpeg calls them

WHITE = 203.0  # nits of SDR's white, and of HDR's diffuse white (BT.2408)
DEFAULT_PEAK = 1000.0  # nits; of most graded films, and what HLG is meant for
SDR_GAMMA = 2.4  # of the display (BT.1886)
# Steps of each colour: greys are 0.3 levels of 255 from the formula at most, other colours 0.3 in
# the mean; 33 steps are twice as far from it.
_TABLE = 65

# Chromaticities of red, green, blue; white is D65 for all three.
PRIMARIES = {
    "bt709": ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060)),
    "bt2020": ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    "smpte432": ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),  # Display P3
}
_D65 = (0.3127, 0.3290)


def tone_map(signal: Colours, transfer: Transfer, *, primaries: str, peak: float) -> Colours:
    """Turn HDR colours, as they are encoded, into SDR colours as BT.709 encodes them.

    Args:
        signal: in [0, 1].
        transfer: how light is encoded.
        primaries: a name of `PRIMARIES`.
        peak: nits of the brightest pixel; what is brighter is clipped.

    Returns: colours in [0, 1].
    """
    to_xyz = _to_xyz(primaries)
    nits = _from_pq(signal) if transfer == "smpte2084" else _from_hlg(signal, to_xyz[1])
    inside = _into_gamut(nits @ (np.linalg.inv(_to_xyz("bt709")) @ to_xyz).T)
    brightest = inside.max(axis=-1, keepdims=True)
    mapped = curve(brightest, peak)
    light = inside * np.divide(mapped, brightest, out=np.zeros_like(mapped), where=brightest > 0)
    return np.asarray((light / WHITE) ** (1 / SDR_GAMMA))


def curve(nits: Colours, peak: float) -> Colours:
    """Bring light below `peak` nits below `WHITE` (ITU-R BT.2390, section 5.4.1, without black)."""
    top = to_pq(np.array([max(peak, WHITE)]))
    largest = float(to_pq(np.array([WHITE]))[0] / top[0])
    knee = 1.5 * largest - 0.5
    signal = np.minimum(to_pq(nits) / top, 1)
    t = (signal - knee) / max(1 - knee, 1e-9)
    rolled = (
        (2 * t**3 - 3 * t**2 + 1) * knee
        + (t**3 - 2 * t**2 + t) * (1 - knee)
        + (3 * t**2 - 2 * t**3) * largest
    )
    return np.minimum(_from_pq(np.where(signal < knee, signal, rolled) * top), WHITE)


def write_table(file: Path, transfer: Transfer, *, primaries: str, peak: float) -> None:
    """Write `tone_map` for ffmpeg's filter `lut3d`, as a .cube file; red changes fastest."""
    steps = np.linspace(0, 1, _TABLE)
    blue, green, red = np.meshgrid(steps, steps, steps, indexing="ij")
    colours = np.stack([red, green, blue], axis=-1).reshape(-1, 3)
    mapped = tone_map(colours, transfer, primaries=primaries, peak=peak)
    rows = ("%.5f %.5f %.5f\n" * len(mapped)) % tuple(mapped.ravel().tolist())
    file.write_text(f"LUT_3D_SIZE {_TABLE}\n{rows}")


# SMPTE ST 2084
_M1, _M2 = 2610 / 16384, 2523 / 4096 * 128
_C1, _C2, _C3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32


def to_pq(nits: Colours) -> Colours:
    """Encode light, in nits, as PQ."""
    light = (nits / 10_000) ** _M1
    return ((_C1 + _C2 * light) / (1 + _C3 * light)) ** _M2


def _from_pq(signal: Colours) -> Colours:
    root = signal ** (1 / _M2)
    light = (np.maximum(root - _C1, 0) / (_C2 - _C3 * root)) ** (1 / _M1)
    return np.asarray(10_000 * light)


def _from_hlg(signal: Colours, luma: Colours) -> Colours:
    """Give the light of a display of 1,000 nits (ITU-R BT.2100: gamma 1.2)."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    luminance = np.maximum(scene @ luma, 0)[..., None]
    return DEFAULT_PEAK * luminance**0.2 * scene


def _to_xyz(primaries: str) -> Colours:
    """Return the matrix from linear RGB to XYZ; its second row gives the luminance."""
    x, y = np.array([*PRIMARIES[primaries], _D65]).T
    xyz = np.stack([x / y, np.ones(4), (1 - x - y) / y])
    return np.asarray(xyz[:, :3] * np.linalg.solve(xyz[:, :3], xyz[:, 3]))


def _into_gamut(light: Colours) -> Colours:
    """Make colours that BT.709 lacks greyer, at their luminance, until none is below 0."""
    grey = (light @ _to_xyz("bt709")[1])[..., None]
    below = grey - light.min(axis=-1, keepdims=True)
    share = np.divide(grey, below, out=np.ones_like(grey), where=below > grey)
    return np.asarray(np.maximum(grey + share * (light - grey), 0))
