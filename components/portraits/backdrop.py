"""What is behind the person, more blurred with distance."""

from __future__ import annotations

import math

import cv2
import numpy as np

from components.portraits.canvas import Canvas, Field, blur, clouds, inside, lay, noise, step


def paint(canvas: Canvas, rng: np.random.Generator) -> Field:
    """Draw the whole picture's background: linear light, (H, W, 3)."""
    t, size = canvas.traits, canvas.size
    dark, middle, bright = (np.array(colour, np.float32) for colour in t.backdrop_colours)
    rows, columns = (np.mgrid[0:size, 0:size] / size).astype(np.float32)
    if t.backdrop == "lights":
        return _lights(dark, bright, size, rng)
    if t.backdrop == "shelves":
        return _shelves(dark, middle, size, rng)
    if t.backdrop == "bricks":
        return _bricks(dark, middle, rows, columns, size, rng)
    if t.backdrop == "window":
        return _window(dark, bright, rows, columns, size, rng)
    if t.backdrop == "leaves":
        blobs = clouds(rng, size, 34, 4)
        green = np.array([0.55, 1.0, 0.4], np.float32)
        tone = np.clip(0.45 + 0.38 * blobs, 0.03, 1.6)[..., None]
        return np.asarray(blur(tone * green * middle.mean() * 1.3 + 0.2 * dark, 1.1), np.float32)
    centre = np.hypot(columns - 0.5 - math.copysign(0.2, t.light_side), rows - 0.4)
    spot = step(0.85, 0.0, centre)[..., None]
    light = dark + (middle - dark) * spot
    grain = 0.1 if t.backdrop == "wall" else 0.05
    mottled = clouds(rng, size, 60 if t.backdrop == "studio" else 12, 4)
    return np.asarray(light * np.clip(1 + grain * mottled, 0.3, 2)[..., None], np.float32)


def _lights(dark: Field, bright: Field, size: int, rng: np.random.Generator) -> Field:
    light = np.empty((size, size, 3), np.float32)
    light[:] = dark * 0.35
    for _ in range(26):
        centre = tuple(int(value) for value in rng.uniform(0, size, 2))
        radius = int(rng.uniform(0.02, 0.06) * size)
        disc = np.zeros((size, size), np.uint8)
        cv2.circle(disc, centre, radius, 150, -1, cv2.LINE_AA)
        cv2.circle(disc, centre, radius, 220, 1, cv2.LINE_AA)
        tint = bright * rng.uniform(0.6, 1.4, 3).astype(np.float32)
        lay(light, tint, disc.astype(np.float32) / 255 * rng.uniform(0.3, 0.9))
    return blur(light, 1.2)


def _shelves(dark: Field, middle: Field, size: int, rng: np.random.Generator) -> Field:
    light = np.empty((size, size, 3), np.float32)
    light[:] = dark * 0.25
    height = int(size * rng.uniform(0.2, 0.3))
    for top in range(int(rng.uniform(-0.5, 0) * height), size, height):
        left = 0
        while left < size:
            width = int(rng.uniform(0.018, 0.05) * size) + 1
            tall = int(height * rng.uniform(0.66, 0.92))
            tint = (0.35 * middle + 0.4 * rng.random(3).astype(np.float32) ** 2) * rng.uniform(
                0.3, 1
            )
            bottom = top + height - 3
            light[max(0, bottom - tall) : max(0, bottom), left : left + width - 1] = tint
            band = max(0, bottom - tall + tall // 5)
            light[band : max(band, min(band + 3, bottom)), left : left + width - 1] = tint * 0.4
            left += width
        light[max(0, top + height - 3) : max(0, top + height)] = middle * 0.5
    return blur(light, 1.3)


def _bricks(
    dark: Field,
    middle: Field,
    rows: Field,
    columns: Field,
    size: int,
    rng: np.random.Generator,
) -> Field:
    course = np.floor(rows * 15)
    along = columns * 6 + 0.5 * np.mod(course, 2)
    mortar = np.minimum(
        step(0.0, 0.14, np.minimum(np.mod(rows * 15, 1), 1 - np.mod(rows * 15, 1))),
        step(0.0, 0.06, np.minimum(np.mod(along, 1), 1 - np.mod(along, 1))),
    )
    tones = rng.uniform(0.6, 1.25, (16, 8)).astype(np.float32)
    tone = tones[course.astype(int), np.floor(along).astype(int)]
    red = middle.mean() * np.array([1.3, 0.8, 0.64], np.float32)
    rough = 1 + 0.1 * clouds(rng, size, 6, 3)
    wall = red * (tone * rough)[..., None]
    joint = np.float32(0.75 * middle.mean() + 0.3 * dark.mean())
    return blur(np.asarray(joint + (wall - joint) * mortar[..., None], np.float32), 0.9)


def _window(
    dark: Field, bright: Field, rows: Field, columns: Field, size: int, rng: np.random.Generator
) -> Field:
    at, pane = rng.uniform(-0.1, 0.6), rng.uniform(0.32, 0.46)
    light = np.empty((size, size, 3), np.float32)
    light[:] = dark * 0.8
    light *= (1 + 0.06 * noise(rng, size, 14))[..., None]
    x, y = columns - at, rows - 0.06
    glass = inside(np.maximum(np.abs(x - pane / 2) - pane / 2, np.abs(y - 0.3) - 0.32), 0.006)
    bars = inside(np.minimum(np.abs(x - pane / 2), np.abs(np.mod(y, 0.3) - 0.15)) - 0.008, 0.004)
    view = bright * (0.75 + 0.5 * step(0.5, 0.0, rows))[..., None]
    view = view + (0.07 * clouds(rng, size, 30, 3))[..., None]
    lay(light, np.asarray(view, np.float32), glass)
    lay(light, tuple(dark * 0.4), np.asarray(glass * bars, np.float32))
    return blur(light, 1.6)
