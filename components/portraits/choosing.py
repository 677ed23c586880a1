"""Every choice about one portrait, made before the first pixel is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from components.portraits.traits import Colour, Features, Hair, Head, Scene, Traits, Worn

_Srgb: TypeAlias = tuple[float, float, float]  # in [0, 255]

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
_FRAMES = ((22, 20, 22), (86, 50, 28), (150, 150, 156))  # of glasses
SHORT_STYLES = ("crop", "crop", "side", "side", "curly", "receding", "bald", "fringe")
LONG_STYLES = ("long", "bob", "wavy", "fringe bob", "updo", "curly", "side")


def choose(rng: np.random.Generator, size: int) -> Traits:
    """Choose everything about one portrait of `size` pixels."""
    # Another order of the draws would give other portraits for the same seed.
    person = _choose_person(rng)
    return Traits(
        **vars(_choose_head(rng, person)),
        **vars(_choose_features(rng, person)),
        **vars(_choose_hair(rng, person)),
        **vars(_choose_worn(rng, person)),
        **vars(_choose_scene(rng, size)),
    )


@dataclass(frozen=True)
class _Person:
    """What is drawn first, since other draws depend on some of it."""

    feminine: bool
    age: float
    tone: float  # of the skin, from 0, light, to 7, dark
    skin: _Srgb
    hair_name: str
    hair: _Srgb
    style: str
    beard: str
    glasses: str
    clothes: _Srgb
    accent: _Srgb
    lipstick: float
    lips: _Srgb


def _choose_person(rng: np.random.Generator) -> _Person:
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
    lips = _blend(lip_base, tuple(map(float, bright)), lipstick)
    return _Person(
        feminine=feminine,
        age=age,
        tone=tone,
        skin=skin,
        hair_name=hair_name,
        hair=hair,
        style=style,
        beard=beard,
        glasses=glasses,
        clothes=clothes,
        accent=accent,
        lipstick=lipstick,
        lips=lips,
    )


def _choose_head(rng: np.random.Generator, person: _Person) -> Head:
    feminine = person.feminine
    return Head(
        width=rng.uniform(1.04, 1.14) if feminine else rng.uniform(1.08, 1.2),
        chin=rng.uniform(1.6, 1.72) if feminine else rng.uniform(1.66, 1.82),
        jaw=rng.uniform(1.95, 2.4) if feminine else rng.uniform(2.2, 3.0),
        taper=rng.uniform(0.1, 0.22) if feminine else rng.uniform(0.04, 0.16),
        fullness=rng.uniform(0, 1),
        skin=_linear(person.skin),
        age=person.age,
        blush=rng.uniform(0.2, 1),
        freckles=rng.uniform(0.3, 1) if person.tone < 2.5 and rng.random() < 0.3 else 0,
    )


def _choose_features(rng: np.random.Generator, person: _Person) -> Features:
    feminine, age, tone = person.feminine, person.age, person.tone
    num_irises = 2 if tone > 3.2 or person.hair_name == "black" else len(_IRISES)  # dark ones first
    return Features(
        eye_width=rng.uniform(0.225, 0.265),
        eye_open=rng.uniform(0.075, 0.115) * (1.1 if feminine else 0.95) * (1 - 0.2 * age),
        eye_tilt=rng.normal(0.05, 0.05),
        hooded=rng.uniform(0, 1),
        iris=_linear(_jitter(rng, _IRISES[int(rng.integers(0, num_irises))], 8)),
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
        lipstick=person.lipstick,
        lips=_linear(person.lips),
        eye_shadow=float(feminine) * rng.uniform(0, 0.5) * (rng.random() < 0.5),
    )


def _choose_hair(rng: np.random.Generator, person: _Person) -> Hair:
    return Hair(
        style=person.style,
        hair=_linear(person.hair),
        hair_volume=rng.uniform(0.7, 1.25),
        hair_wave=rng.uniform(0, 1),
        parting=float(rng.choice([-1, 1])) * rng.uniform(0, 0.45),
        beard=person.beard,
        beard_colour=_linear(
            _blend(person.hair, _HAIRS["grey"], 0.5 * person.age * (rng.random() < 0.5))
        ),
    )


def _choose_worn(rng: np.random.Generator, person: _Person) -> Worn:
    frame = _FRAMES[int(rng.integers(3))]
    return Worn(
        glasses=person.glasses,
        glasses_colour=_linear(_jitter(rng, frame, 8)),
        earrings=bool(person.feminine and rng.random() < 0.35),
        clothes=_linear(person.clothes),
        clothes_accent=_linear(person.accent),
        pattern=str(rng.choice(["knit", "weave", "stripes", "check", "plain"])),
        collar=str(rng.choice(["round", "v", "shirt", "turtleneck"])),
    )


def _choose_scene(rng: np.random.Generator, size: int) -> Scene:
    return Scene(
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
        colours.append(_linear(tuple(brightness * (1 + rng.uniform(0.08, 0.4) * np.cos(phase)))))
    return colours[0], colours[1], colours[2]


def _blend(left: tuple[float, ...], right: tuple[float, ...], part: float) -> _Srgb:
    red, green, blue = (a + (b - a) * part for a, b in zip(left, right, strict=True))
    return red, green, blue


def _jitter(rng: np.random.Generator, colour: tuple[float, ...], by: float) -> _Srgb:
    shift = rng.normal(0, by / 2) + rng.normal(0, by / 3, 3)
    red, green, blue = np.clip(np.array(colour) + shift, 4, 250)
    return float(red), float(green), float(blue)


def _linear(srgb: _Srgb) -> Colour:
    """Return 8-bit sRGB as light, with the gamma of 2 that `canvas.develop` undoes."""
    red, green, blue = ((value / 255) ** 2 for value in srgb)
    return red, green, blue
