"""The head as a relief: a height above each point of the picture, and the light on it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from components.portraits.canvas import Canvas, Field, blur, bump, inside, noise, step
from components.portraits.traits import Traits

EYES = (-0.5, 0.5)
SKULL_TOP = -1.5
_WIDEST = 0.12  # height at which the face is widest


@dataclass(frozen=True)
class Relief:
    height: Field  # above the plane through the ears, eye distances
    head: Field  # where the head is, in [0, 1]
    neck: Field
    body: Field


@dataclass(frozen=True)
class Lighting:
    diffuse: Field  # (H, W, 3): light that reaches each point, shadows included
    gloss: Field  # mirrored light of an oily skin
    direction: tuple[float, float, float]

    def of(self, window: tuple[slice, slice]) -> Lighting:
        return Lighting(self.diffuse[window], self.gloss[window], self.direction)


def half_width(traits: Traits, v: Field) -> Field:
    """Return half the width of the face at each height."""
    above = np.clip((_WIDEST - v) / (_WIDEST - SKULL_TOP), 0, 1)
    below = np.clip((v - _WIDEST) / (traits.chin - _WIDEST), 0, 1)
    skull = np.sqrt(1 - above**2.7)
    jaw = np.sqrt(1 - below**traits.jaw) * (1 - traits.taper * below)
    return np.asarray(traits.width * np.where(v < _WIDEST, skull, jaw), np.float32)


def raise_head(canvas: Canvas, rng: np.random.Generator) -> Relief:
    t, u, v = canvas.traits, canvas.u, canvas.v
    one = np.float32(1)  # keeps `where` in single precision
    width = half_width(t, v)
    side = np.abs(u) / np.maximum(width, 0.05)
    bulge = np.sqrt(np.clip(1 - side**2.3, 0, 1))
    lengthwise = np.sqrt(
        np.clip(1 - (v - 0.1) ** 2 * np.where(v < 0.1, one / 1.72**2, one / t.chin**2), 0, 1)
    )
    height = 0.86 * bulge**0.85 * lengthwise**0.6
    covered = inside((np.abs(u) - width), canvas.pixel) * (v < t.chin) * (v > SKULL_TOP)
    # The slope of an edge is not its distance: soften the outline where it is level, top and chin.
    head = np.maximum(covered, 0) * step(0, 0.14, lengthwise)
    height += _features(t, u, v) * step(0, 0.5, bulge)
    height += _furrows(t, u, v)
    height += 0.0006 * noise(rng, canvas.size, 2.2) + 0.0022 * noise(rng, canvas.size, 11)
    neck_height, neck = _neck(canvas)
    body_height, body = _body(canvas)
    below = np.where(body > 0.5, body_height, np.where(neck > 0.5, neck_height, -0.6))
    height = np.where(head > 0.5, height, below)
    return Relief(height.astype(np.float32), head.astype(np.float32), neck, body)


def _features(t: Traits, u: Field, v: Field) -> Field:
    """Return the hills and hollows of a face, in eye distances."""
    n, w = t.nose_length, t.nose_width
    across = np.abs(u)
    hills = -0.17 * bump(across, v, (0.47, -0.03), 0.3, 0.17)  # sockets
    hills += 0.075 * bump(across, v, (0.5, 0.0), 0.2, 0.12)  # eyeballs
    hills += 0.06 * bump(across, v, (0.42, -0.27), 0.42, 0.1)  # brow bones
    hills += 0.08 * bump(across, v, (0.72, 0.4), 0.26, 0.22)  # cheekbones
    hills += (0.07 * t.fullness - 0.03) * bump(across, v, (0.66, 0.82), 0.24, 0.3)
    hills += 0.05 * t.smile * bump(across, v, (0.58, 0.62), 0.16, 0.14)
    along = np.clip((v + 0.18) / (n + 0.1), 0, 1)  # 0 at the root of the nose, 1 at its tip
    ridge = np.exp(-((u / (0.085 + 0.07 * along) / w) ** 2))
    end = step(n + 0.17, n + 0.03, v)
    hills += t.nose_bridge * (0.05 + 0.2 * along) * ridge * end * step(-0.3, 0.05, v)
    hills += 0.15 * bump(u, v, (0, n), 0.135 * w, 0.12)
    hills += 0.12 * bump(across, v, (0.205 * w, n + 0.045), 0.075 * w, 0.085)
    mouth = 1.05
    hills += 0.07 * bump(u, v, (0, mouth), 0.42, 0.28)  # teeth behind the lips
    f = t.lip_fullness
    hills += 0.05 * f * bump(across, v, (0.1, mouth - 0.065), 0.2, 0.05)
    hills += 0.075 * f * bump(u, v, (0, mouth + 0.1 * f), 0.26, 0.06)
    hills -= 0.05 * bump(u, v, (0, mouth + 0.005), 0.36, 0.022)
    hills -= 0.03 * bump(u, v, (0, 0.86), 0.045, 0.09)  # philtrum
    hills -= 0.055 * bump(u, v, (0, mouth + 0.27), 0.28, 0.07)
    hills += 0.09 * bump(u, v, (0, t.chin - 0.2), 0.26, 0.18)
    hills -= 0.012 * bump(across, v, (t.mouth_width + 0.06, mouth - 0.03), 0.06, 0.07)
    return np.asarray(hills, np.float32)


def _furrows(t: Traits, u: Field, v: Field) -> Field:
    """Return the lines of age and of a smile."""
    across = np.abs(u)
    depth = 0.004 + 0.04 * t.age + 0.018 * max(t.smile, 0)
    fold_at = 0.29 + 0.27 * np.clip((v - 0.62) / 0.5, 0, 1.3) ** 1.2
    fold = np.exp(-(((across - fold_at) / 0.035) ** 2)) * step(0.56, 0.72, v) * step(1.1, 0.88, v)
    lines = -depth * fold
    bags = np.exp(-(((v - 0.2 - 0.12 * (across - 0.5) ** 2) / 0.03) ** 2))
    lines -= (0.008 + 0.022 * t.age) * bags * np.exp(-(((across - 0.45) / 0.2) ** 2))
    if t.age > 0.4:
        wavy = v + 0.03 * np.cos(2.4 * u) + 0.012 * np.sin(9 * u)
        brow = np.exp(-((u / 0.75) ** 4)) * step(-0.45, -0.55, v) * step(-0.98, -0.88, v)
        lines -= 0.02 * (t.age - 0.3) * brow * np.clip(np.cos(wavy * 2 * np.pi / 0.135), 0, 1) ** 6
        fan = np.arctan2(v - 0.0, across - 0.66)
        feet = np.exp(-(((across - 0.9) / 0.11) ** 2)) * np.exp(-((v / 0.2) ** 2))
        lines -= 0.022 * (t.age - 0.3) * feet * np.clip(np.cos(fan * 13), 0, 1) ** 4
        lines -= 0.02 * (t.age - 0.3) * bump(across, v, (0.09, -0.22), 0.016, 0.1)
    return np.asarray(lines, np.float32)


def _neck(canvas: Canvas) -> tuple[Field, Field]:
    t, x, y = canvas.traits, canvas.x, canvas.y
    centre = 0.25 * math.sin(t.yaw)
    width = 0.56 + 0.16 * (t.width - 1.0) / 0.1 * 0.5 + 0.1 * step(1.7, 2.5, y)
    across = (x - centre) / width
    tube = np.sqrt(np.clip(1 - across**2, 0, 1))
    sinews = 0.035 * np.exp(-(((np.abs(across) - 0.55 + 0.22 * (y - 1.9)) / 0.1) ** 2))
    cover = inside(np.abs(x - centre) - width, canvas.pixel) * step(0.9, 1.0, y)
    return np.asarray(0.42 * tube - 0.28 + sinews, np.float32), np.asarray(cover, np.float32)


def shoulders(canvas: Canvas) -> Field:
    """Return the height at which the shoulders begin, for each point's x."""
    t = canvas.traits
    across = np.abs(canvas.x - 0.3 * math.sin(t.yaw))
    slope = 2.02 + 0.62 * np.clip((across - 0.55) / 1.6, 0, None) ** 1.25
    return np.asarray(slope + (t.chin - 1.75), np.float32)


def _body(canvas: Canvas) -> tuple[Field, Field]:
    t, x, y = canvas.traits, canvas.x, canvas.y
    centre = 0.3 * math.sin(t.yaw)
    top = shoulders(canvas)
    collar = 2.1 + (t.chin - 1.75)
    depth = {"round": 0.22, "v": 0.75, "shirt": 0.4, "turtleneck": -0.38}[t.collar]
    across = np.abs(x - centre)
    if t.collar in ("v", "shirt"):
        opening = collar + depth * np.clip(1 - across / 0.62, 0, 1)
    else:
        opening = collar + depth * np.sqrt(np.clip(1 - (across / 0.72) ** 2, 0, 1))
    edge = np.where(across < 0.62, np.maximum(opening, np.minimum(top, opening)), top)
    cover = inside((edge - y).astype(np.float32), canvas.pixel)
    round_off = np.sqrt(np.clip((y - top + 0.12) / 0.8, 0, 1))
    height = -0.3 + 0.3 * round_off - 0.1 * across
    return np.asarray(height, np.float32), cover


def illuminate(canvas: Canvas, relief: Relief, rng: np.random.Generator) -> Lighting:
    """Light the relief from one side: shading, the shadows that it casts, a glow in the skin."""
    t = canvas.traits
    side, up = t.light_side, t.light_height
    direction = (
        math.sin(side) * math.cos(up),
        -math.sin(up),
        math.cos(side) * math.cos(up),
    )
    height = relief.height
    across = cv2.Sobel(height, cv2.CV_32F, 1, 0, ksize=3) / (8 * canvas.pixel)
    down = cv2.Sobel(height, cv2.CV_32F, 0, 1, ksize=3) / (8 * canvas.pixel)
    steepness = 1 / np.sqrt(1 + across**2 + down**2)
    facing = (direction[2] - across * direction[0] - down * direction[1]) * steepness
    lit = _lit(canvas, height, direction)
    hollow = np.clip(blur(height, 0.09 / canvas.pixel) - height, 0, 0.2)
    ambient = (0.34 - 0.12 * down * steepness) * (1 - 2.6 * hollow)
    # Light reaches around skin, red the furthest, because it scatters below the surface.
    diffuse = np.empty((*height.shape, 3), np.float32)
    warmth = (1 + t.light_warmth, 1.0, 1 - t.light_warmth)
    for channel, wrap in enumerate((0.3, 0.16, 0.1)):
        direct = np.clip((facing + wrap) / (1 + wrap), 0, 1) * (wrap * 0.5 + (1 - wrap * 0.5) * lit)
        diffuse[..., channel] = (
            t.light_strength * 1.02 * warmth[channel] * direct
            + (0.9, 0.96, 1.08)[channel] * ambient
        )
    half = np.array([direction[0], direction[1], direction[2] + 1])
    right, low, front = (half / np.linalg.norm(half)).tolist()
    mirrored = np.clip((front - across * right - down * low) * steepness, 0, 1)
    pores = np.clip(1 + 0.35 * noise(rng, canvas.size, 1.6), 0.2, 2)
    gloss = (mirrored**26 * lit * pores * t.light_strength).astype(np.float32)
    return Lighting(diffuse, gloss, direction)


def _lit(canvas: Canvas, height: Field, direction: tuple[float, float, float]) -> Field:
    """Return how much light reaches each point: the relief's own shadows, softer if longer."""
    half = cv2.resize(height, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    pixel = 2 * canvas.pixel
    blocked = np.zeros_like(half)
    flat = math.hypot(direction[0], direction[1])
    for length in np.geomspace(0.05, 0.9, 9).tolist():
        dx, dy = (direction[axis] / flat * length / pixel for axis in (0, 1))
        moved = cv2.warpAffine(
            half,
            np.array([[1, 0, dx], [0, 1, dy]], np.float64),
            half.shape[::-1],
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        above = moved - half - length * direction[2] / flat
        blocked = np.maximum(blocked, np.clip(above / (0.04 + 0.12 * length), 0, 1))
    soft = blur(np.asarray(blocked, np.float32), 0.03 / pixel)
    return np.asarray(
        1 - cv2.resize(soft, height.shape[::-1], interpolation=cv2.INTER_LINEAR), np.float32
    )
