"""What a portrait shows: everything about one person in one light."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

Colour: TypeAlias = tuple[float, float, float]  # linear RGB in [0, 1]


@dataclass(frozen=True)
class Head:
    """The shape of a head and its skin."""

    width: float  # of the face, halved, at its widest
    chin: float  # how far below the eyes
    jaw: float  # 2 is round, 3 square
    taper: float  # how much narrower towards the chin
    fullness: float  # of the cheeks, 0 to 1
    skin: Colour
    age: float  # 0 young, 1 old
    blush: float
    freckles: float


@dataclass(frozen=True)
class Features:
    """Eyes, brows, nose and mouth."""

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


@dataclass(frozen=True)
class Hair:
    """The hair of the head and the beard."""

    style: str
    hair: Colour
    hair_volume: float
    hair_wave: float
    parting: float
    beard: str  # "", "stubble", "moustache", "short", "full"
    beard_colour: Colour


@dataclass(frozen=True)
class Worn:
    """Glasses, earrings and clothes."""

    glasses: str  # "", "round", "square", "rimless"
    glasses_colour: Colour
    earrings: bool
    clothes: Colour
    clothes_accent: Colour
    pattern: str
    collar: str


@dataclass(frozen=True)
class Scene:
    """Pose, light and backdrop."""

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


@dataclass(frozen=True)
class Traits(Head, Features, Hair, Worn, Scene):
    """One person in one light. Lengths are eye distances, angles radians, colours linear."""
