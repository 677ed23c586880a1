"""Hair: strands that fall from a parting, curls, and beards."""

from __future__ import annotations

import math

import cv2
import numpy as np

from components.portraits.canvas import (
    Canvas,
    Field,
    blur,
    bump,
    clouds,
    inside,
    lay,
    noise,
    step,
    strokes,
)
from components.portraits.relief import SKULL_TOP, Lighting, half_width

_LONG = ("long", "wavy", "bob", "fringe bob")
# how far below the eyes hair hangs
_LENGTH = {"long": 3.5, "wavy": 3.2, "bob": 1.55, "fringe bob": 1.35}


def _outline(canvas: Canvas, rng: np.random.Generator) -> tuple[Field, Field]:
    """Return the signed distance to the outline of the hair, and its half width at each height."""
    t, x, y = canvas.traits, canvas.x, canvas.y
    thick = 0.2 * t.hair_volume
    if t.style == "crop":
        thick = 0.07 * t.hair_volume
    elif t.style == "curly":
        thick = 0.34 * t.hair_volume
    elif t.style in _LONG:
        thick = 0.24 * t.hair_volume
    elif t.style == "receding":
        thick = 0.08
    top = SKULL_TOP - thick
    a = t.width + thick * 0.9
    rise = np.clip((0.1 - y) / (0.1 - top), 0, 1)
    hang = np.clip((y - 0.1) / 1.6, 0, 2)
    flare = {"long": 0.1, "wavy": 0.22, "bob": 0.16, "fringe bob": 0.2, "curly": 0.08}
    width = a * np.sqrt(1 - rise**2.5) + flare.get(t.style, -0.35) * hang**1.2
    ripple = noise(rng, canvas.size, 0.3 / canvas.pixel) * 0.02
    if t.style in ("curly", "wavy"):
        ripple += noise(rng, canvas.size, 0.14 / canvas.pixel) * (
            0.045 if t.style == "curly" else 0.02
        )
    width = np.asarray(width + ripple, np.float32)
    distance = np.maximum(np.abs(x) - width, top - y)
    end = _LENGTH.get(t.style, 0.45 if t.style != "curly" else 1.0)
    ragged = 0.02 * noise(rng, canvas.size, 0.05 / canvas.pixel)
    return np.maximum(distance, y - end + ragged).astype(np.float32), width


def _strands(canvas: Canvas, width: Field, rng: np.random.Generator) -> tuple[Field, Field]:
    """Draw fine streaks along the strands; return them, and the strand of each pixel."""
    t, x, y = canvas.traits, canvas.x, canvas.y
    lean = t.parting * np.clip(1 - (y - SKULL_TOP) / 1.6, 0, 1)
    strand = (x - lean) / np.maximum(width, 0.06)
    wave = t.hair_wave * (0.11 if t.style in ("wavy", "bob") else 0.03)
    strand = strand + wave * np.sin(5.5 * y + 3 * np.abs(strand)) * step(-0.6, 0.6, y)
    if t.style == "curly":
        kinks = np.sin(2.6 * clouds(rng, canvas.size, 0.13 / canvas.pixel, 3))
        return np.asarray(1.3 * kinks, np.float32), np.asarray(strand, np.float32)
    streaks = np.zeros_like(strand)
    for frequency, strength in ((40, 0.55), (110, 0.75), (230, 0.55)):
        table = rng.standard_normal((12, 1024), dtype=np.float32)
        column = ((strand + 2) * frequency) % 1022
        row = np.clip((y + 2) * 2.2, 0, 10.9)
        streaks += strength * cv2.remap(
            table,
            column.astype(np.float32),
            row.astype(np.float32),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_WRAP,
        )
    return np.asarray(streaks, np.float32), np.asarray(strand, np.float32)


def _colour(
    canvas: Canvas, streaks: Field, strand: Field, lighting: Lighting, under: Field
) -> Field:
    """Shade hair: rounded by the head, streaked, with a band of mirrored light along the top."""
    t, y = canvas.traits, canvas.y
    base = np.array(t.hair, np.float32)
    toward = np.clip(0.62 + 0.42 * lighting.direction[0] * strand, 0.15, 1.2)
    down = np.clip(1.05 - 0.2 * (y - SKULL_TOP) / 2, 0.5, 1.2)
    rounded = np.clip(1.1 - 0.55 * strand**2, 0.3, 1.1) * down * toward
    tone = np.clip(1 + 0.34 * streaks, 0.15, 2.2) * rounded * t.light_strength * under
    at = -1.12 + 0.35 * strand**2 - 0.12 * lighting.direction[0] * strand + 0.05 * streaks
    band = np.exp(-(((y - at) / 0.17) ** 2)) * np.clip(0.5 + 0.5 * streaks, 0, 2)
    second = 0.5 * np.exp(-(((y - at - 0.9) / 0.3) ** 2)) * np.clip(0.4 + 0.5 * streaks, 0, 2)
    shine = (band + second) * toward * t.light_strength * (0.3 if t.style == "curly" else 1)
    lit = base * tone[..., None] * 1.15
    gleam = 0.05 + 0.55 * base
    return np.asarray(lit + (0.32 * shine)[..., None] * gleam, np.float32)


def paint_back(light: Field, canvas: Canvas, lighting: Lighting, rng: np.random.Generator) -> None:
    """Draw the hair behind neck and shoulders."""
    if canvas.traits.style not in _LONG:
        return
    distance, width = _outline(canvas, rng)
    streaks, strand = _strands(canvas, width, rng)
    shade = 0.25 + 0.45 * step(0.7, 1.1, np.abs(canvas.x))
    colour = _colour(canvas, streaks, strand, lighting, shade)
    lay(light, colour, inside(distance, canvas.pixel))


def paint_front(light: Field, canvas: Canvas, lighting: Lighting, rng: np.random.Generator) -> None:
    """Draw the hair around the face, from the hairline outwards, and its shade on the skin."""
    t = canvas.traits
    if t.style == "bald":
        _paint_stubbled_scalp(light, canvas, rng)
        return
    distance, width = _outline(canvas, rng)
    streaks, strand = _strands(canvas, width, rng)
    hairline = _hairline(canvas, strand, streaks)
    cover = np.minimum(inside(distance, canvas.pixel), hairline)
    shade = np.clip(blur(cover, 0.07 / canvas.pixel) * 1.2, 0, 1) * (1 - cover)
    lay(light, (0.01, 0.008, 0.007), np.asarray(0.42 * shade * _on_head(canvas), np.float32))
    edge_shade = 0.62 + 0.38 * step(0.0, 0.22, blur(cover, 0.05 / canvas.pixel) - 0.3)
    lay(light, _colour(canvas, streaks, strand, lighting, edge_shade), cover)
    if t.style == "updo":
        _paint_bun(light, canvas, lighting, rng)
    _draw_strays(light, canvas, rng)


def _on_head(canvas: Canvas) -> Field:
    return np.asarray(np.abs(canvas.u) < half_width(canvas.traits, canvas.v), np.float32)


def _hairline(canvas: Canvas, strand: Field, streaks: Field) -> Field:
    """Return 1 outside the hairline, in the hair, with a ragged edge."""
    t, u, v = canvas.traits, canvas.u, canvas.v
    across = np.abs(u)
    ragged = 0.035 * streaks
    front = {"receding": -1.3, "crop": -1.08, "curly": -1.02, "updo": -1.1}.get(t.style, -1.06)
    temple = t.width * 0.93
    if t.style == "receding":
        front_line = front - 0.1 * np.cos(across * 4) + 0.55 * np.clip(across - 0.5, 0, None)
    elif t.style == "side":
        swept = math.copysign(0.26, t.parting)
        front_line = front + 0.2 + swept * u - 0.18 * np.cos(2.2 * (u - t.parting * 1.8))
    else:
        front_line = front + 0.12 * across**2 + 0.45 * np.clip(across - 0.6, 0, None)
    above = step(0.03, -0.03, v - front_line + ragged)
    if t.style in ("fringe", "fringe bob"):
        fringe = -0.5 + 0.1 * np.cos(u * 3 + t.parting * 6) + 0.1 * across
        above = np.maximum(above, step(0.02, -0.02, v - fringe + 2.2 * ragged))
    burns = {"crop": 0.2, "side": 0.35, "receding": 0.3, "fringe": 0.25, "updo": 0.05, "curly": 0.2}
    depth = burns.get(t.style, 9.0)
    inner = _curtain(canvas) if t.style in _LONG else np.minimum(temple, half_width(t, v) - 0.05)
    sides = step(-0.02, 0.03, across - inner + 0.6 * ragged) * step(0.06, -0.06, v - depth + ragged)
    if t.style in _LONG and t.style != "fringe bob":
        parted = np.abs(u - t.parting * 0.9)
        swoop = -0.95 + 0.85 * np.clip(parted - 0.1, 0, None) ** 1.5
        above = np.maximum(above, step(0.03, -0.03, v - swoop + ragged) * (across > 0.3))
    del strand
    return np.clip(np.maximum(above, sides), 0, 1)


def _curtain(canvas: Canvas) -> Field:
    """Return where long hair begins beside the face."""
    t, v = canvas.traits, canvas.v
    face = half_width(t, np.minimum(v, 0.9))
    inner = face - 0.07 + 0.05 * np.sin(3 * v + 9 * t.hair_wave) * t.hair_wave
    return np.asarray(inner + 0.12 * step(1.3, 2.2, v), np.float32)


def _paint_stubbled_scalp(light: Field, canvas: Canvas, rng: np.random.Generator) -> None:
    t, u, v = canvas.traits, canvas.u, canvas.v
    line = -1.02 + 0.5 * np.clip(np.abs(u) - 0.5, 0, None) + 0.02 * noise(rng, canvas.size, 4)
    scalp = step(0.1, -0.12, v - line) * _on_head(canvas)
    dots = np.clip(0.5 + 0.5 * noise(rng, canvas.size, 1.2), 0, 1)
    lay(light, tuple(np.array(t.hair) * 0.6), np.asarray(0.42 * scalp * dots, np.float32))


def _paint_bun(light: Field, canvas: Canvas, lighting: Lighting, rng: np.random.Generator) -> None:
    x, y = canvas.x - canvas.traits.parting * 0.4, canvas.y + 1.82
    out = np.hypot(x / 0.46, y / 0.36)
    turns = np.arctan2(y, x) * 3 + 9 * out
    streaks = np.sin(turns * 3) + 0.8 * noise(rng, canvas.size, 2.5)
    strand = np.clip(x / 0.46, -1, 1)
    shade = np.clip(1.15 - 0.6 * out**2, 0.2, 1)
    colour = _colour(canvas, streaks, strand, lighting, shade)
    lay(light, colour, inside((out - 1) * 0.4, canvas.pixel))


def _draw_strays(light: Field, canvas: Canvas, rng: np.random.Generator) -> None:
    """Draw single hairs outside the outline."""
    t = canvas.traits
    if t.style in ("crop", "receding"):
        return
    reach = {"curly": 0.3, "long": 0.24, "wavy": 0.3}.get(t.style, 0.12)
    count = 60
    angle = rng.uniform(-2.9, -0.24, (count, 1))
    radius = 0.97 + np.linspace(0, 1, 6) * reach * rng.uniform(0.1, 0.75, (count, 1))
    bend = angle + rng.normal(0, 0.6, (count, 1)) * (radius - 0.97)
    x = (t.width + 0.14 * t.hair_volume) * radius * np.cos(bend)
    y = 0.1 + (1.6 + 0.14 * t.hair_volume) * radius * np.sin(bend)
    cover = 0.26 * strokes(canvas, np.stack([x, y], axis=-1))
    lay(light, tuple(np.array(t.hair) * 1.1), cover)


def paint_beard(light: Field, canvas: Canvas, lighting: Lighting, rng: np.random.Generator) -> None:
    """Draw a beard around the mouth: dots if it is short, strands if it is long."""
    t, u, v = canvas.traits, canvas.u, canvas.v
    if not t.beard:
        return
    across = np.abs(u)
    width = half_width(t, v)
    grown = 0.1 if t.beard == "full" else 0.0
    cheek = 0.72 + 0.55 * np.clip(0.85 - across, 0, None) ** 1.2
    jaw = step(-0.08, 0.08, v - cheek) * step(0.05, -0.03, across - width - grown)
    if t.style != "bald":
        jaw = np.maximum(jaw, step(0.93, 1.0, across / np.maximum(width, 0.1)) * (v > 0.2))
    jaw *= (
        step(t.chin + 0.16 + 2 * grown, t.chin - 0.02 + 2 * grown, v)
        * (across < width + grown)
        * (width + grown > 0.12)
    )
    lip_line = 0.88 + 0.1 * np.clip(across / 0.4, 0, 1) ** 2
    moustache = step(-0.045, 0.02, v - lip_line + 0.06) * step(0.025, -0.03, v - lip_line - 0.085)
    moustache *= step(0.56, 0.42, across)
    bare = step(0.82, 1.08, np.hypot(u / (t.mouth_width + 0.06), (v - 1.08) / 0.2))
    below = bump(u, v, (0, 1.29), 0.1, 0.05)
    area = np.maximum(jaw * bare, moustache)
    if t.beard == "moustache":
        area = moustache
    ragged = np.clip(area + 0.22 * noise(rng, canvas.size, 3) * (area > 0.02), 0, 1)
    down = cv2.blur(
        rng.standard_normal((canvas.size, canvas.size), dtype=np.float32),
        (1, 6 if t.beard == "full" else 3),
    )
    hairs = np.clip(0.62 + 0.9 * down, 0, 1)
    density = {"stubble": 0.4, "moustache": 0.9, "short": 0.72, "full": 0.97}[t.beard]
    if t.beard == "stubble":
        hairs = np.clip(0.5 + 0.6 * noise(rng, canvas.size, 1.2), 0, 1)
    cover = density * ragged * (0.45 + 0.55 * hairs) * (1 - 0.6 * below)
    colour = np.array(t.beard_colour, np.float32) * (0.35 + 0.9 * hairs[..., None])
    lay(light, colour * (0.25 + 0.75 * lighting.diffuse), np.asarray(cover, np.float32))
