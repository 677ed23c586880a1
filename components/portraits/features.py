"""The face itself: skin, eyes, brows and mouth, laid onto a lit relief."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

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
from components.portraits.relief import EYES, Lighting, Relief
from components.portraits.traits import Colour

MOUTH_AT = 1.05


def paint_skin(
    light: Field, canvas: Canvas, relief: Relief, lighting: Lighting, rng: np.random.Generator
) -> None:
    """Draw skin over head and neck, with its flush, spots and pores."""
    t, u, v = canvas.traits, canvas.u, canvas.v
    across = np.abs(u)
    skin = np.array(t.skin, np.float32)
    uneven = 1 + 0.045 * clouds(rng, canvas.size, 40, 4) + 0.02 * noise(rng, canvas.size, 1.3)
    albedo = skin * uneven[..., None]
    flush = bump(across, v, (0.62, 0.5), 0.3, 0.24) * t.blush + 0.7 * bump(
        u, v, (0, t.nose_length), 0.2, 0.14
    )
    flush += 0.35 * bump(u, v, (0, t.chin - 0.18), 0.25, 0.14)
    albedo *= 1 + flush[..., None] * np.array([0.06, -0.13, -0.14], np.float32)
    under_eyes = bump(across, v, (0.46, 0.17), 0.22, 0.08) * (0.1 + 0.2 * t.age)
    albedo *= 1 - under_eyes[..., None] * np.array([0.5, 0.8, 0.6], np.float32)
    if t.freckles:
        spots = _spots(canvas, rng, round(230 * t.freckles))
        albedo *= 1 - spots[..., None] * np.array([0.2, 0.36, 0.42], np.float32)
    moles = _moles(canvas, rng)
    albedo *= 1 - moles[..., None] * np.array([0.5, 0.62, 0.66], np.float32)
    if t.eye_shadow:
        lid = bump(across, v, (0.52, -0.12), 0.25, 0.08) * t.eye_shadow
        albedo *= 1 - lid[..., None] * np.array([0.5, 0.65, 0.45], np.float32)
    nostrils = bump(across, v, (0.115 * t.nose_width, t.nose_length + 0.115), 0.06, 0.028)
    albedo *= 1 - 0.8 * nostrils[..., None]
    lit = albedo * lighting.diffuse
    oily = 0.5 + 0.7 * bump(u, v, (0, 0.1), 0.4, 0.9) + 0.5 * bump(u, v, (0, -0.7), 0.5, 0.2)
    lit += (0.14 * lighting.gloss * oily)[..., None]
    _paint_ears(light, canvas, lighting)
    lay(light, lit, relief.neck)
    lay(light, lit, relief.head)


def _spots(canvas: Canvas, rng: np.random.Generator, count: int) -> Field:
    places = rng.normal((0, 0.42), (0.55, 0.24), (count, 2))
    cover = np.zeros_like(canvas.u)
    for (x, y), strength in zip(canvas.to_pixels(places), rng.uniform(0.2, 1, count), strict=True):
        column, row = int(x), int(y)
        if 1 <= column < canvas.size - 2 and 1 <= row < canvas.size - 2:
            cover[row : row + 2, column : column + 2] += np.float32(strength)
    return np.clip(blur(cover, 0.7), 0, 1)


def _moles(canvas: Canvas, rng: np.random.Generator) -> Field:
    cover = np.zeros_like(canvas.u)
    for _ in range(int(rng.integers(0, 4))):
        at = (float(rng.uniform(-0.85, 0.85)), float(rng.uniform(-0.7, 1.5)))
        size = float(rng.uniform(0.012, 0.024))
        cover += inside(np.hypot(canvas.u - at[0], canvas.v - at[1]) - size, canvas.pixel * 1.5)
    return np.clip(cover, 0, 1)


def _paint_ears(light: Field, canvas: Canvas, lighting: Lighting) -> None:
    t = canvas.traits
    skin = np.array(t.skin, np.float32) * np.array([1.0, 0.86, 0.84], np.float32)
    brightness = lighting.diffuse.mean(axis=2)
    level = float(np.median(brightness[canvas.size // 2 :, :]))
    for side in (-1, 1):
        away = 0.2 * abs(math.sin(t.yaw))  # a turn hides one ear and shows more of the other
        part, window = canvas.window((side * (t.width + 0.03 - away), 0.3), 0.5)
        x = (part.x * side - (t.width + 0.03 - away)) / 0.13
        y = (part.y - 0.3) / 0.34
        rim = np.hypot(x + 0.25 * y, y) + 0.04 * np.sin(5 * y)
        cover = inside((rim - 1) * 0.13, canvas.pixel)
        inner = 0.62 + 0.38 * step(0.45, 0.85, rim) - 0.12 * step(0.92, 1.0, rim)
        toward = 1 + math.copysign(0.45, lighting.direction[0]) * side
        shade = min(max(level * toward, 0.25), 1.2) * inner
        lay(light[window], shade[..., None] * skin, cover)


def paint_eyes(light: Field, canvas: Canvas, lighting: Lighting, rng: np.random.Generator) -> None:
    for side in EYES:
        part, window = canvas.window((side, 0.0), 0.5)
        _paint_eye(light[window], part, lighting.of(window), rng, side)


def _lids(canvas: Canvas, u: npt.NDArray[np.floating]) -> tuple[Field, Field]:
    """Return heights of the upper and lower lid over the eye; `u` is -1 (inner) to 1 (outer)."""
    t = canvas.traits
    bow = np.clip(1 - u**2, 0, 1)
    tilt = -t.eye_tilt * u * t.eye_width * 2
    upper = tilt - t.eye_open * 1.15 * bow ** (0.62 + 0.1 * u)
    lower = tilt + t.eye_open * 0.72 * bow ** (0.85 - 0.15 * u) * (1 - 0.12 * max(t.smile, 0))
    return np.asarray(upper, np.float32), np.asarray(lower, np.float32)


def _paint_eye(
    light: Field, canvas: Canvas, lighting: Lighting, rng: np.random.Generator, side: float
) -> None:
    t = canvas.traits
    outward = math.copysign(1, side)
    e, f = canvas.u - side, canvas.v  # about the eye's middle
    along = e * outward / t.eye_width
    upper, lower = _lids(canvas, np.clip(along, -1, 1))
    near = np.abs(along) < 1.6
    brightness = lighting.diffuse * near[..., None]
    opening = np.minimum(inside(upper - f, canvas.pixel), inside(f - lower, canvas.pixel))
    opening *= np.abs(along) < 1
    # The white, rounded, in the shade of the upper lid, pink in the inner corner.
    ball = np.clip(1 - 0.5 * (along**2) - 0.25 * (f / t.eye_open) ** 2, 0.2, 1)
    lid_shade = 0.45 + 0.55 * step(0.0, 0.075, f - upper)
    white = np.array([0.62, 0.59, 0.57], np.float32) - 0.12 * step(0.1, 1.0, -along)[
        ..., None
    ] * np.array([-0.2, 1, 0.9], np.float32)
    white = white * (1 - 0.08 * t.age)
    veil = (ball * lid_shade)[..., None]
    lay(light, white * veil * (0.25 + 0.75 * brightness), opening)
    _paint_iris(light, canvas, e, f, lid_shade, brightness, opening, rng)
    _line_lids(light, canvas, lighting, f, along, upper, lower, near)
    _draw_lashes(light, canvas, rng, side)


def _paint_iris(
    light: Field,
    canvas: Canvas,
    e: Field,
    f: Field,
    lid_shade: Field,
    brightness: Field,
    opening: Field,
    rng: np.random.Generator,
) -> None:
    t = canvas.traits
    radius = 0.1
    x, y = (e - t.gaze[0]) / radius, (f + 0.016 - t.gaze[1]) / radius
    out = np.hypot(x, y)
    angle = np.arctan2(y, x)
    fibres = np.zeros_like(out)
    for frequency in (7, 13, 23, 37):
        phase = float(rng.uniform(0, 6.3))
        fibres += np.cos(angle * frequency + phase + 2.5 * out) * np.float32(0.5)
    glow = 0.75 + 0.3 * fibres * step(0.3, 0.6, out) + 0.75 * step(-0.4, 1.0, y * 0.8)
    colour = np.array(t.iris, np.float32) * np.clip(glow, 0.2, 2.4)[..., None]
    colour = colour * (1 - 0.75 * step(0.78, 1.0, out))[..., None]
    colour = colour * (1 - 0.95 * step(0.44, 0.36, out))[..., None]
    cover = opening * inside((out - 1) * radius, canvas.pixel * 1.3)
    lay(light, colour * lid_shade[..., None] * (0.35 + 0.75 * brightness), cover)
    spark_x = math.copysign(0.34, canvas.traits.light_side)
    spark = inside(np.hypot((x - spark_x) * 1.1, y + 0.34) * radius - 0.026, canvas.pixel)
    lay(light, (1.15, 1.15, 1.12), np.asarray(spark * opening * 0.95, np.float32))
    second = bump(x, y, (-0.88 * spark_x, 0.42), 0.25, 0.16)
    lay(light, (0.6, 0.62, 0.66), np.asarray(0.28 * second * cover, np.float32))


def _line_lids(
    light: Field,
    canvas: Canvas,
    lighting: Lighting,
    f: Field,
    along: Field,
    upper: Field,
    lower: Field,
    near: npt.NDArray[np.bool_],
) -> None:
    t = canvas.traits
    skin = np.array(t.skin, np.float32)
    fade = step(1.12, 0.95, np.abs(along)) * near
    made_up = 0.6 + 0.4 * (t.eye_shadow > 0)
    dark = np.clip(1 - np.abs(f - upper + 0.006) / (0.016 + 0.008 * made_up), 0, 1) * fade
    lay(light, (0.012, 0.009, 0.008), np.asarray(dark * (0.8 + 0.2 * made_up), np.float32))
    rim = np.clip(1 - np.abs(f - lower - 0.008) / 0.02, 0, 1) * fade
    lay(
        light,
        skin * np.array([0.9, 0.62, 0.58], np.float32) * lighting.diffuse,
        np.asarray(0.55 * rim, np.float32),
    )
    crease_at = upper - (0.075 - 0.03 * t.hooded) - 0.02 * np.clip(along, -1, 1)
    crease = np.exp(-(((f - crease_at) / 0.014) ** 2)) * step(1.3, 0.85, np.abs(along)) * near
    lay(light, tuple(skin * 0.16), np.asarray(0.62 * crease, np.float32))


def _draw_lashes(light: Field, canvas: Canvas, rng: np.random.Generator, side: float) -> None:
    t = canvas.traits
    outward = math.copysign(1, side)
    roots = np.linspace(-0.7, 1.0, 17) + rng.normal(0, 0.03, 17)
    upper, _ = _lids(canvas, np.clip(roots, -1, 1))
    length = (0.05 + 0.035 * np.clip(roots, 0, None)) * rng.uniform(0.8, 1.2, 17)
    sweep = outward * (0.25 + 0.75 * roots)
    steps = np.linspace(0, 1, 4)[:, None]
    u = side + outward * roots * t.eye_width + sweep * length * steps**1.4
    v = upper - length * (steps - 0.35 * steps**2)
    lay(light, (0.015, 0.012, 0.011), 0.6 * strokes(canvas, np.stack([u.T, v.T], axis=-1)))


def paint_brows(light: Field, canvas: Canvas, rng: np.random.Generator) -> None:
    """Draw brows of single hairs over a soft shade."""
    t = canvas.traits
    colour = np.array(t.hair, np.float32)
    colour = np.minimum(colour, np.array(t.skin, np.float32) * 0.4) * 0.75
    hairs = 95
    for side in (-1.0, 1.0):
        along = rng.uniform(0, 1, hairs)
        thickness = t.brow_thickness * np.sin(np.pi * np.clip(0.16 + 0.84 * along, 0, 1)) ** 0.6
        across = rng.uniform(-1, 1, hairs)
        u = 0.17 + 0.66 * along
        v = -t.brow_height + 0.05 - (t.brow_arch + 0.07) * np.sin(np.pi * along**1.25 * 0.86)
        v = v + 0.07 * along**3 + across * thickness
        lean = np.deg2rad(62 - 58 * along - 18 * across) + rng.normal(0, 0.12, hairs)
        length = rng.uniform(0.07, 0.12, hairs) * (1 - 0.3 * along)
        steps = np.linspace(0, 1, 3)[:, None]
        us = side * (u + steps * length * np.cos(lean))
        vs = v - steps * length * np.sin(lean) + 0.02 * steps**2
        part, window = canvas.window((side * 0.5, -t.brow_height), 0.6)
        cover = strokes(part, np.stack([us.T, vs.T], axis=-1))
        shade = np.clip(blur(cover, 0.03 / canvas.pixel), 0, 0.5)
        lay(light[window], tuple(colour), np.maximum(shade, 0.7 * cover))


def paint_mouth(light: Field, canvas: Canvas, lighting: Lighting, rng: np.random.Generator) -> None:
    part, window = canvas.window((0.0, MOUTH_AT), 0.72)
    _paint_mouth(light[window], part, lighting.of(window), rng)


def _paint_mouth(
    light: Field, canvas: Canvas, lighting: Lighting, rng: np.random.Generator
) -> None:
    t, u, v = canvas.traits, canvas.u, canvas.v
    width = t.mouth_width * (1 + 0.1 * max(t.smile, 0))
    s = u / width
    within = np.clip(1 - s**2, 0, 1)
    parted = 0.05 + 0.075 * max(t.smile, 0) if t.teeth else 0.0
    lift = _lift(canvas)
    curve = MOUTH_AT - lift * (s**2 - 0.35) + 0.012 * np.cos(3 * np.pi * s) * within
    f = t.lip_fullness
    bow = 0.03 * np.exp(-((s / 0.13) ** 2)) - 0.012 * np.exp(-(((np.abs(s) - 0.28) / 0.14) ** 2))
    top = curve - 0.125 * f * within**0.85 + bow * f - 0.3 * parted * within
    bottom = curve + 0.165 * f * within**0.7 + 1.0 * parted * within
    cover = np.minimum(inside(top - v, canvas.pixel * 2), inside(v - bottom, canvas.pixel * 2))
    cover *= (np.abs(s) < 1) * (0.72 + 0.28 * t.lipstick)
    creases = 1 + 0.16 * np.interp(
        (s * 50 + 60).ravel(), np.arange(121), rng.standard_normal(121)
    ).reshape(s.shape).astype(np.float32)
    colour = np.array(t.lips, np.float32) * creases[..., None]
    upper_shade = 1 - 0.25 * step(0.0, -0.08, v - curve)
    lit = colour * lighting.diffuse * upper_shade[..., None]
    wet = (0.25 + 0.5 * t.lipstick) * lighting.gloss * step(0.0, 0.03, v - curve)
    wet = wet + (0.05 + 0.1 * t.lipstick) * bump(
        u, v, (math.copysign(0.1, t.light_side), MOUTH_AT + 0.09 + 0.6 * parted), 0.14, 0.022
    )
    lay(light, lit + wet[..., None], np.asarray(cover, np.float32))
    seam = np.clip(1 - np.abs(v - curve) / (0.012 + 0.014 * within), 0, 1)
    seam *= step(1.1, 0.92, np.abs(s))
    if t.teeth:
        gap_top = curve - 0.3 * parted * within
        gap_bottom = curve + 1.05 * parted * within
        gap = np.minimum(inside(gap_top - v, canvas.pixel), inside(v - gap_bottom, canvas.pixel))
        gap = np.asarray(gap * (np.abs(s) < 0.9), np.float32)
        _paint_teeth(light, canvas, lighting, u, v, s, gap, gap_bottom)
        seam = np.clip(1 - np.abs(v - gap_top) / 0.014, 0, 1) * (np.abs(s) < 0.92) * 0.5
    lay(light, _dark(t.lips), np.asarray(0.75 * seam, np.float32))


def _paint_teeth(
    light: Field,
    canvas: Canvas,
    lighting: Lighting,
    u: Field,
    v: Field,
    s: Field,
    gap: Field,
    gap_bottom: Field,
) -> None:
    lay(light, (0.035, 0.012, 0.012), gap)
    column = np.abs(np.mod(u / 0.085 + 0.0, 1) - 0.5)
    ivory = np.array([0.74, 0.7, 0.62], np.float32) * (1 - 0.25 * canvas.traits.age)
    shade = (1 - 0.75 * s**2) * (1 - 0.16 * step(0.4, 0.5, column))
    row = inside(v - (gap_bottom - 0.012), canvas.pixel * 2.5)
    lay(
        light,
        ivory * shade[..., None] * (0.2 + 0.75 * lighting.diffuse),
        np.asarray(gap * row * step(0.95, 0.7, np.abs(s)), np.float32),
    )


def _lift(canvas: Canvas) -> float:
    """Return how far a smile bends the mouth."""
    return (0.12 if canvas.traits.teeth else 0.085) * canvas.traits.smile


def _dark(colour: Colour) -> Colour:
    return colour[0] * 0.18, colour[1] * 0.12, colour[2] * 0.12


def landmarks(canvas: Canvas) -> npt.NDArray[np.float64]:
    """Return the five points in the picture, in pixels, in METHOD's order."""
    t = canvas.traits
    width = t.mouth_width * (1 + 0.1 * max(t.smile, 0))
    corner = MOUTH_AT - 0.65 * _lift(canvas)
    points = [(-0.5, 0.0), (0.5, 0.0), (0.0, t.nose_length), (-width, corner), (width, corner)]
    return canvas.to_pixels(np.array(points))
