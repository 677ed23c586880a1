"""Pictures of a model's results: single PNGs with a list, and one picture of all to show.

A gate is SDFM's alpha (h, w) in [0, 1], one value per patch: near 1 details come from the
intermediate restoration, near 0 its structure comes from the degraded face.
"""

import json
import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from components import images
from components.files import write_json
from components.images import Image
from components.reporting.comparison import Compared, Scores

TITLES = {
    "lq": "LQ",
    "intermediate": "intermediate",
    "restored": "restored",
    "hq": "HQ",
    "gate": "gate",
}
COLOUR_MAP = "viridis"
_LIST = "gallery.json"
_ON_FACE = 0.62  # the share of colour in a heat map; the rest is the face, in grey

Limits = tuple[float, float]  # the gate values at the two ends of the colour map


@dataclass(frozen=True)
class Face:
    """One face's pictures, by the keys of TITLES, in that order; all of one size."""

    face_id: str
    variant: int
    pictures: dict[str, Image]
    scores: Scores


@dataclass(frozen=True)
class Gallery:
    """A model's pictures. `limits` belong to the heat maps, if there are any.

    `faces` were chosen by their place in the test set; `failures` are those that got worse the
    most, the worst first.
    """

    model: str
    faces: tuple[Face, ...]
    limits: Limits | None
    failures: tuple[Face, ...] = ()

    @classmethod
    def of(
        cls, model: str, compared: Sequence[Compared], failures: Sequence[Compared] = ()
    ) -> Self:
        """Make the gallery of some faces; their gates share one colour scale."""
        gates = [one.gate for one in (*compared, *failures) if one.gate is not None]
        limits = _limits(gates) if gates else None
        shown, failed = (tuple(_face(one, limits) for one in part) for part in (compared, failures))
        return cls(model, shown, limits, failed)

    def write(self, folder: Path) -> None:
        """Write a folder of PNGs and their list; it appears when it is complete."""
        partial = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        content = {
            "model": self.model,
            "gate_limits": self.limits,
            "faces": _write(self.faces, partial, ""),
            "failures": _write(self.failures, partial, "failure-"),
        }
        write_json(partial / _LIST, content)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read what `write` wrote."""
        content = json.loads((folder / _LIST).read_text(encoding="utf-8"))
        shown, failed = (
            tuple(_read(face, folder) for face in content[part]) for part in ("faces", "failures")
        )
        limits = content["gate_limits"]
        return cls(content["model"], shown, tuple(limits) if limits else None, failed)


def _write(faces: Sequence[Face], folder: Path, prefix: str) -> list[dict[str, Any]]:
    """Write PNGs of faces; return their entries in the list."""
    listed = []
    for number, face in enumerate(faces, start=1):
        files = {role: f"{prefix}{number:02}-{role}.png" for role in face.pictures}
        for role, picture in face.pictures.items():
            (folder / files[role]).write_bytes(images.encode_png(picture))
        about = {"face_id": face.face_id, "variant": face.variant}
        listed.append({**about, "files": files, "scores": face.scores})
    return listed


def _read(face: Mapping[str, Any], folder: Path) -> Face:
    pictures = {
        role: images.decode_png((folder / file).read_bytes())
        for role, file in face["files"].items()
    }
    return Face(face["face_id"], face["variant"], pictures, face["scores"])


def heat_map(face: Image, gate_hw: npt.NDArray[np.float32], limits: Limits) -> Image:
    """Draw a gate over its face, one tile per patch, in the perceptual colour map."""
    low, high = limits
    steps = ((gate_hw - low) / (high - low) * 255).clip(0, 255).round().astype(np.uint8)
    height, width = face.shape[:2]
    tiles = cv2.resize(steps, (width, height), interpolation=cv2.INTER_NEAREST)
    grey = cv2.cvtColor(face, cv2.COLOR_RGB2GRAY)[..., None]
    blended = _ON_FACE * colours()[tiles] + (1 - _ON_FACE) * grey
    return np.asarray(blended.round().astype(np.uint8))


@cache
def colours() -> npt.NDArray[np.float64]:
    """Return the colour map: RGB of 256 steps, (256, 3) in 0 to 255."""
    from matplotlib import colormaps

    return np.asarray(colormaps[COLOUR_MAP](np.arange(256))[:, :3] * 255)


def make_picture(gallery: Gallery, *, cell: int = 128) -> Image:
    """Draw one picture: one row per face, one column per role, the roles' names on top.

    Small pictures are enlarged to `cell` pixels by whole pixels, large ones reduced. The gate's
    colour scale is above its column.
    """
    if not gallery.faces:
        raise ValueError(f"the gallery of {gallery.model} has no face to draw")
    roles = [role for role in TITLES if any(role in face.pictures for face in gallery.faces)]
    gap, top = max(4, cell // 32), max(20, cell // 5)
    size = (gap + len(roles) * (cell + gap), top + len(gallery.faces) * (cell + gap))
    sheet = PillowImage.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(top * 0.55)
    for column, role in enumerate(roles):
        left = gap + column * (cell + gap)
        middle = (left + cell / 2, top / 2)
        if role == "gate" and gallery.limits:
            title = "{:.2f}  gate  {:.2f}".format(*gallery.limits)
            scale = np.linspace(0, 255, cell).round().astype(int)
            bar = np.repeat(colours()[scale][None].astype(np.uint8), gap // 2, axis=0)
            sheet.paste(PillowImage.fromarray(bar), (left, top - gap))
        else:
            title = TITLES[role]
        draw.text(middle, title, fill="#1c2430", font=font, anchor="mm")
        for row, face in enumerate(gallery.faces):
            if role in face.pictures:
                picture = PillowImage.fromarray(fit(face.pictures[role], cell))
                sheet.paste(picture, (left, top + row * (cell + gap)))
    return np.array(sheet, dtype=np.uint8)


def fit(picture: Image, size: int) -> Image:
    """Return a picture `size` pixels wide: enlarged by whole pixels, or reduced by area."""
    if picture.shape[0] >= size:
        return images.resize(picture, size)
    grown = cv2.resize(picture, (size, size), interpolation=cv2.INTER_NEAREST)
    return np.asarray(grown, dtype=np.uint8)


def _face(one: Compared, limits: Limits | None) -> Face:
    pictures = {"lq": one.pair.lq, "restored": one.restored, "hq": one.pair.hq}
    if one.intermediate is not None:
        pictures["intermediate"] = one.intermediate
    if one.gate is not None and limits is not None:
        pictures["gate"] = heat_map(one.pair.lq, one.gate, limits)
    ordered = {role: pictures[role] for role in TITLES if role in pictures}
    return Face(one.pair.face_id, one.pair.variant, ordered, one.scores)


def _limits(gates: Iterable[npt.NDArray[np.float32]]) -> Limits:
    """Return the range of all gates, rounded outwards to hundredths."""
    values = np.concatenate([gate.ravel() for gate in gates])
    low, high = math.floor(values.min() * 100) / 100, math.ceil(values.max() * 100) / 100
    return (low, high) if high > low else (low, low + 0.01)
