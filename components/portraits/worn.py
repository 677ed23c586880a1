"""Clothes with a weave, glasses, earrings."""

from __future__ import annotations

import math

import numpy as np

from components.portraits.canvas import Canvas, Field, blur, clouds, inside, lay, noise, step
from components.portraits.relief import Lighting, Relief, shoulders
from components.portraits.traits import Traits


def paint_clothes(
    light: Field, canvas: Canvas, relief: Relief, lighting: Lighting, rng: np.random.Generator
) -> None:
    t = canvas.traits
    x, y = canvas.x, canvas.y
    bend = y - shoulders(canvas) * 0.5  # the weave follows the shoulders
    pattern = _pattern(t, x, bend)
    base, accent = (np.array(colour, np.float32) for colour in (t.clothes, t.clothes_accent))
    cloth = base + (accent - base) * np.clip(pattern[1], 0, 1)[..., None]
    thread = 1 + 0.16 * pattern[0] + 0.06 * noise(rng, canvas.size, 1.5)
    folds = clouds(rng, canvas.size, 0.5 / canvas.pixel, 2)
    shade = np.clip(thread * (1 + 0.12 * folds), 0.2, 2)
    lay(light, cloth * shade[..., None] * lighting.diffuse * 0.92, relief.body)
    edge = np.clip(1 - np.abs(blur(relief.body, 0.02 / canvas.pixel) - 0.5) * 3.2, 0, 1)
    edge *= np.minimum(relief.body, 1) * (np.abs(x) < 0.75)
    lay(light, tuple(base * 0.35), np.asarray(0.55 * edge, np.float32))
    if t.collar == "shirt":
        _paint_lapels(light, canvas, lighting)


def _pattern(t: Traits, x: Field, y: Field) -> tuple[Field, Field]:
    """Return the relief of the threads, and where the second colour shows."""
    none = np.zeros_like(x)
    if t.pattern == "knit":
        row = y * 26
        wales = np.sin(2 * np.pi * (x * 15 + 0.18 * np.abs(np.mod(row, 1) - 0.5)))
        return np.asarray(wales + 0.6 * np.sin(2 * np.pi * row), np.float32), none
    if t.pattern == "weave":
        threads = np.sin(2 * np.pi * 34 * (x + y)) * np.sin(2 * np.pi * 34 * (x - y))
        return np.asarray(threads, np.float32), none
    if t.pattern == "stripes":
        wave = np.mod(y * 4.6, 1)
        return none, np.asarray(step(0.52, 0.56, wave) * step(1.0, 0.96, wave), np.float32)
    if t.pattern == "check":
        across, down = np.mod(x * 3.4, 1), np.mod(y * 3.4, 1)
        bands = 0.5 * (across > 0.62) + 0.5 * (down > 0.62)
        twill = np.sin(2 * np.pi * 22 * (x + y))
        return np.asarray(0.5 * twill, np.float32), np.asarray(bands, np.float32)
    return none, none


def _paint_lapels(light: Field, canvas: Canvas, lighting: Lighting) -> None:
    t, y = canvas.traits, canvas.y
    x = np.abs(canvas.x - 0.3 * math.sin(t.yaw))
    low = y - (t.chin - 1.75)
    outer = low - (2.02 + 0.3 * np.clip(x - 0.2, 0, None))
    inner = 0.62 * np.clip(2.62 - low, 0, None)
    flap = inside((x - inner - 0.3).astype(np.float32), canvas.pixel)
    flap *= step(-0.01, 0.01, x - inner) * step(-0.01, 0.01, outer) * (low < 2.75)
    tone = np.array(t.clothes_accent, np.float32) * 0.5 + np.array(t.clothes, np.float32) * 0.55
    lay(light, tone * lighting.diffuse, np.asarray(flap, np.float32))
    seam = np.clip(1 - np.abs(x - inner - 0.3) / 0.02, 0, 1) * (outer > 0) * (low < 2.75)
    lay(light, tuple(tone * 0.3), np.asarray(0.7 * seam, np.float32))


def paint_glasses(light: Field, canvas: Canvas) -> None:
    t, u, v = canvas.traits, canvas.u, canvas.v
    if not t.glasses:
        return
    across = np.abs(u)
    x, y = across - 0.5, v - 0.05
    if t.glasses == "round":
        edge = np.hypot(x / 0.34, y / 0.32) - 1
        distance = edge * 0.33
    else:
        power = 4.0 if t.glasses == "square" else 3.2
        edge = (np.abs(x / 0.38) ** power + np.abs(y / 0.26) ** power) ** (1 / power) - 1
        distance = edge * 0.3
    thin = 0.014 if t.glasses == "rimless" else 0.032
    rim = inside(np.abs(distance) - thin, canvas.pixel)
    reach = 0.16 if t.glasses == "round" else 0.12
    bridge_at = -0.02 + 0.5 * across**2
    bridge = inside(np.abs(v - bridge_at) - thin, canvas.pixel) * (across < reach + 0.03)
    arm = inside(np.abs(v + 0.05) - thin * 0.9, canvas.pixel) * step(0.85, 0.88, across)
    arm *= across < t.width
    frame = np.maximum(np.maximum(rim, bridge), arm).astype(np.float32)
    shadow = blur(np.roll(frame, round(0.05 / canvas.pixel), axis=0), 0.02 / canvas.pixel)
    lay(light, (0.02, 0.012, 0.01), 0.35 * shadow)
    lens = inside(distance.astype(np.float32), canvas.pixel)
    sheen = step(
        0.09, 0.0, np.abs(x * math.copysign(1, t.light_side) * np.sign(u) + 0.9 * y + 0.06)
    )
    lay(light, (0.85, 0.9, 0.95), np.asarray(lens * (0.05 + 0.16 * sheen), np.float32))
    lit = (
        np.array(t.glasses_colour, np.float32)
        * (1.05 - 0.5 * step(-0.02, 0.02, distance))[..., None]
        + 0.05 * step(0.0, -0.02, distance)[..., None]
    )
    lay(light, np.asarray(lit, np.float32), frame)


def paint_earrings(light: Field, canvas: Canvas) -> None:
    t = canvas.traits
    if not t.earrings:
        return
    for side in (-1, 1):
        x = canvas.x * side - t.width
        y = canvas.y - 0.72
        out = np.hypot(x, y)
        colour = (
            np.array([0.75, 0.6, 0.25], np.float32)
            * (0.4 + 0.9 * step(0.08, -0.08, x + y))[..., None]
        )
        lay(light, colour, inside(np.abs(out - 0.07) - 0.022, canvas.pixel))
