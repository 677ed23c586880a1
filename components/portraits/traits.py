"""Every choice about one portrait, made before the first pixel is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

Colour: TypeAlias = tuple[float, float, float]  # linear RGB in [0, 1]

# sRGB, from light to dark
_SKINS = (
    (240, 206, 186),
    (232, 192, 166),
    (228, 184, 152),
    (214, 164, 128),
    (190, 138, 100),
    (158, 108, 76),
    (122, 80, 56),
    (90, 58, 42),
)
_HAIRS = {
    "black": (26, 22, 22),
    "dark brown": (52, 36, 28),
    "brown": (88, 60, 40),
    "chestnut": (112, 66, 40),
    "red": (152, 76, 36),
    "dark blond": (150, 116, 74),
    "blond": (206, 172, 116),
    "grey": (136, 134, 132),
    "white": (206, 204, 200),
}
_IRISES = (
    (70, 44, 28),
    (96, 62, 36),
    (112, 88, 48),
    (92, 112, 72),
    (84, 118, 150),
    (110, 130, 142),
)
_CLOTHES = (
    (36, 42, 62),
    (150, 44, 48),
    (214, 206, 190),
    (60, 92, 74),
    (70, 110, 160),
    (44, 44, 46),
    (196, 150, 70),
    (128, 92, 130),
    (230, 230, 232),
    (168, 106, 84),
)
SHORT_STYLES = ("crop", "crop", "side", "side", "curly", "receding", "bald", "fringe")
LONG_STYLES = ("long", "bob", "wavy", "fringe bob", "updo", "curly", "side")


@dataclass(frozen=True)
class Traits:
    """One person in one light. Lengths are eye distances, angles radians, colours linear."""

    # head
    width: float  # of the face, halved, at its widest
    chin: float  # how far below the eyes
    jaw: float  # 2 is round, 3 square
    taper: float  # how much narrower towards the chin
    fullness: float  # of the cheeks, 0 to 1
    skin: Colour
    age: float  # 0 young, 1 old
    blush: float
    freckles: float
    # features
    eye_width: float
    eye_open: float
    eye_tilt: float
    hooded: float
    iris: Colour
    gaze: tuple[float, float]
    brow_thickness: float
    brow_height: float
    brow_arch: float
    nose_length: float
    nose_width: float
    nose_bridge: float
    mouth_width: float
    lip_fullness: float
    smile: float
    teeth: bool
    lipstick: float
    lips: Colour
    eye_shadow: float
    # what grows and what is worn
    style: str
    hair: Colour
    hair_volume: float
    hair_wave: float
    parting: float
    beard: str  # "", "stubble", "moustache", "short", "full"
    beard_colour: Colour
    glasses: str  # "", "round", "square", "rimless"
    glasses_colour: Colour
    earrings: bool
    clothes: Colour
    clothes_accent: Colour
    pattern: str
    collar: str
    # pose and light
    roll: float
    yaw: float
    pitch: float
    scale: float  # pixels per eye distance
    offset: tuple[float, float]  # of the point between the eyes, pixels from its usual place
    light_side: float  # angle from the front, negative from the left
    light_height: float
    light_strength: float
    light_warmth: float
    backdrop: str
    backdrop_colours: tuple[Colour, Colour, Colour]


def linear(srgb: tuple[float, float, float]) -> Colour:
    """Return 8-bit sRGB as light, with the gamma of 2 that `canvas.develop` undoes."""
    red, green, blue = ((value / 255) ** 2 for value in srgb)
    return red, green, blue


def choose(rng: np.random.Generator, size: int) -> Traits:
    """Choose everything about one portrait of `size` pixels."""
    feminine = rng.random() < 0.5
    age = float(np.clip(rng.beta(1.6, 2.0), 0, 1))
    tone = rng.random() * (len(_SKINS) - 1)
    skin = _jitter(rng, _blend(_SKINS[int(tone)], _SKINS[min(int(tone) + 1, 7)], tone % 1), 6)
    hair_name = _hair_name(rng, tone, age)
    hair = _jitter(rng, _HAIRS[hair_name], 9)
    style = str(rng.choice(LONG_STYLES if feminine else SHORT_STYLES))
    beard = (
        ""
        if feminine or rng.random() < 0.45
        else str(rng.choice(["stubble", "stubble", "moustache", "short", "full"]))
    )
    glasses = str(rng.choice(["round", "square", "rimless"])) if rng.random() < 0.24 else ""
    clothes, accent = (_jitter(rng, _CLOTHES[i], 12) for i in rng.choice(10, 2, replace=False))
    lip_base = _blend(skin, (168, 62, 66), 0.5 if tone < 4.5 else 0.3)
    lipstick = float(rng.random() < 0.45) * feminine * rng.uniform(0.4, 1)
    bright = rng.choice([(176, 30, 44), (190, 70, 86), (150, 50, 70)])
    dark_iris = tone > 3.2 or hair_name == "black"
    return Traits(
        width=rng.uniform(1.04, 1.14) if feminine else rng.uniform(1.08, 1.2),
        chin=rng.uniform(1.6, 1.72) if feminine else rng.uniform(1.66, 1.82),
        jaw=rng.uniform(1.95, 2.4) if feminine else rng.uniform(2.2, 3.0),
        taper=rng.uniform(0.1, 0.22) if feminine else rng.uniform(0.04, 0.16),
        fullness=rng.uniform(0, 1),
        skin=linear(skin),
        age=age,
        blush=rng.uniform(0.2, 1),
        freckles=rng.uniform(0.3, 1) if tone < 2.5 and rng.random() < 0.3 else 0,
        eye_width=rng.uniform(0.225, 0.265),
        eye_open=rng.uniform(0.075, 0.115) * (1.1 if feminine else 0.95) * (1 - 0.2 * age),
        eye_tilt=rng.normal(0.05, 0.05),
        hooded=rng.uniform(0, 1),
        iris=linear(_jitter(rng, _IRISES[int(rng.integers(0, 2 if dark_iris else 6))], 8)),
        gaze=(rng.normal(0, 0.014), rng.normal(0, 0.006)),
        brow_thickness=rng.uniform(0.022, 0.036) if feminine else rng.uniform(0.032, 0.058),
        brow_height=rng.uniform(0.32, 0.4) if feminine else rng.uniform(0.28, 0.35),
        brow_arch=rng.uniform(0.03, 0.1) if feminine else rng.uniform(0.0, 0.06),
        nose_length=rng.uniform(0.55, 0.66),
        nose_width=rng.uniform(0.85, 1.0) + 0.05 * tone * rng.random(),
        nose_bridge=rng.uniform(0.7, 1.25),
        mouth_width=rng.uniform(0.38, 0.47),
        lip_fullness=rng.uniform(0.75, 1.15) + 0.06 * tone - 0.25 * age,
        smile=rng.uniform(0.05, 1.1),
        teeth=bool(rng.random() < 0.38),
        lipstick=lipstick,
        lips=linear(_blend(lip_base, tuple(map(float, bright)), lipstick)),
        eye_shadow=float(feminine) * rng.uniform(0, 0.5) * (rng.random() < 0.5),
        style=style,
        hair=linear(hair),
        hair_volume=rng.uniform(0.7, 1.25),
        hair_wave=rng.uniform(0, 1),
        parting=float(rng.choice([-1, 1])) * rng.uniform(0, 0.45),
        beard=beard,
        beard_colour=linear(_blend(hair, _HAIRS["grey"], 0.5 * age * (rng.random() < 0.5))),
        glasses=glasses,
        glasses_colour=linear(
            _jitter(rng, [(22, 20, 22), (86, 50, 28), (150, 150, 156)][int(rng.integers(3))], 8)
        ),
        earrings=bool(feminine and rng.random() < 0.35),
        clothes=linear(clothes),
        clothes_accent=linear(accent),
        pattern=str(rng.choice(["knit", "weave", "stripes", "check", "plain"])),
        collar=str(rng.choice(["round", "v", "shirt", "turtleneck"])),
        roll=float(np.clip(rng.normal(0, 0.09), -0.25, 0.25)),
        yaw=float(np.clip(rng.normal(0, 0.2), -0.42, 0.42)),
        pitch=float(np.clip(rng.normal(0, 0.06), -0.15, 0.15)),
        scale=size * rng.uniform(0.19, 0.215),
        offset=(size * rng.normal(0, 0.015), size * rng.normal(0, 0.012)),
        light_side=float(rng.choice([-1, 1])) * rng.uniform(0.3, 1.15),
        light_height=rng.uniform(0.15, 0.75),
        light_strength=rng.uniform(0.75, 1.25),
        light_warmth=rng.uniform(-0.06, 0.12),
        backdrop=str(
            rng.choice(["studio", "lights", "leaves", "bricks", "shelves", "window", "wall"])
        ),
        backdrop_colours=_backdrop_colours(rng),
    )


def _hair_name(rng: np.random.Generator, tone: float, age: float) -> str:
    if rng.random() < max(0.0, 1.6 * age - 0.55):
        return str(rng.choice(["grey", "white"]))
    if tone > 4:
        return str(rng.choice(["black", "dark brown"], p=[0.8, 0.2]))
    names = list(_HAIRS)[:7]
    return str(rng.choice(names, p=[0.2, 0.2, 0.18, 0.12, 0.07, 0.11, 0.12]))


def _backdrop_colours(rng: np.random.Generator) -> tuple[Colour, Colour, Colour]:
    hue = rng.random()
    colours = []
    for brightness in (rng.uniform(40, 110), rng.uniform(90, 170), rng.uniform(130, 235)):
        phase = 2 * np.pi * (hue + np.array([0, 1 / 3, 2 / 3]) + rng.normal(0, 0.06))
        colours.append(linear(tuple(brightness * (1 + rng.uniform(0.08, 0.4) * np.cos(phase)))))
    return colours[0], colours[1], colours[2]


def _blend(
    left: tuple[float, ...], right: tuple[float, ...], part: float
) -> tuple[float, float, float]:
    red, green, blue = (a + (b - a) * part for a, b in zip(left, right, strict=True))
    return red, green, blue


def _jitter(
    rng: np.random.Generator, colour: tuple[float, ...], by: float
) -> tuple[float, float, float]:
    shift = rng.normal(0, by / 2) + rng.normal(0, by / 3, 3)
    red, green, blue = np.clip(np.array(colour) + shift, 4, 250)
    return float(red), float(green), float(blue)
