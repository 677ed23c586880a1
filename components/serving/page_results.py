"""What the page shows of an answer: the photograph and each face, before and after.

The pictures lie in files that the page serves; which of them is shown, the visitor's browser knows.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import gradio as gr
import numpy as np
from gradio.processing_utils import save_bytes_to_cache

from components.images import Image
from components.photographs import photograph
from components.photographs.photograph import SUFFIXES, FileFormat, Photograph

_SHOWN_SIDE = 1600  # pixels of the longer side; the download has all of them
_SHOWN_QUALITY = 92
_AROUND_FACE = 0.35  # of its box, on each side


@dataclass(frozen=True)
class View:
    """What can be looked at: the whole photograph, or a face; both pictures have one size."""

    caption: str
    before: Image
    after: Image
    gate: bytes | None = None  # PNG


class ResultPane:
    """Where results are shown. What is picked from stays in the visitor's browser, hidden."""

    def __init__(self) -> None:
        with gr.Column(visible=False, elem_id="result") as self.column:
            self.slider = gr.ImageSlider(
                label="Before and after",
                interactive=False,
                buttons=["fullscreen"],
                elem_id="slider",
                max_height=640,
            )
            self.download = gr.DownloadButton("Download", variant="primary", elem_id="download")
            self.faces = gr.Gallery(
                label="Look closer at",
                height="auto",
                buttons=[],
                allow_preview=False,
                object_fit="cover",
                elem_id="faces",
            )
            self.gate = gr.Image(
                label="Gate: bright takes details, dark keeps structure",
                height=260,
                interactive=False,
                buttons=[],
                visible=False,
                elem_id="gate",
            )
            with gr.Accordion("Each face", open=False):
                self.told = gr.Markdown(elem_id="each-face")
            self.pickable = [gr.Gallery(visible=False) for _ in ("before", "after", "gate")]
        self.components = [
            *(self.column, self.slider, self.download, self.faces, self.gate, self.told),
            *self.pickable,
        ]


def nothing(said: str) -> list[Any]:
    """Give the values of all outputs where there is nothing to show."""
    hidden = gr.Image(None, visible=False)
    return [said, gr.Column(visible=False), None, None, None, hidden, None, *[None] * 3]


def values_for(file: Path, data: bytes, content: Mapping[str, Any]) -> list[Any]:
    """Give the values of all outputs for an answer of the endpoint."""
    picture = base64.b64decode(content["picture"])
    kind: FileFormat = content["media_type"].removeprefix("image/")
    views = list(_views(photograph.read(data), photograph.read(picture), content))
    before, after = (
        [_saved(getattr(view, side)) for view in views] for side in ("before", "after")
    )
    # A gallery holds no gaps: a face without a gate has its own picture there.
    gates = [
        one if view.gate is None else _cached(view.gate, "gate.png")
        for view, one in zip(views, before, strict=True)
    ]
    captions = [view.caption for view in views]
    return [
        _headline(content),
        gr.Column(visible=True),
        (before[0], after[0]),
        _cached(picture, f"{file.stem}-restored{SUFFIXES[kind]}"),
        gr.Gallery(list(zip(after, captions, strict=True)), selected_index=0),
        gr.Image(None, visible=False),
        _each_face(content["record"]["faces"]),
        *(before, after, gates),
    ]


def _views(before: Photograph, after: Photograph, content: Mapping[str, Any]) -> Iterator[View]:
    """Cut out what can be looked at: all of it first, then each face."""
    large = after.pixels
    height, width = large.shape[:2]
    small = _resized(before.pixels, width, height)
    shrink = min(1.0, _SHOWN_SIDE / max(width, height))
    whole = round(width * shrink), round(height * shrink)
    yield View("all", _resized(small, *whole), _resized(large, *whole))
    scale = width / before.pixels.shape[1]
    faces = zip(content["record"]["faces"], content["gates"], strict=True)
    for number, (face, gate) in enumerate(faces, start=1):
        left, top, right, bottom = face["box"]
        around = _AROUND_FACE * max(right - left, bottom - top)
        columns = _within(left - around, right + around, scale, width)
        rows = _within(top - around, bottom + around, scale, height)
        yield View(
            f"face {number}" if face["restored"] else f"face {number}: left as it was",
            small[rows, columns],
            large[rows, columns],
            None if gate is None else base64.b64decode(gate),
        )


def _headline(content: Mapping[str, Any]) -> str:
    record, model = content["record"], content["model"]
    seconds = sum(content["seconds"].values())
    told = (
        f"**{record['num_restored']} of {len(record['faces'])} faces restored** by "
        f"{escaped(model['name'])} at {record['model_size']} pixels a face, in {seconds:.1f} s"
    )
    return f"{told}\n\n{escaped(record['note'])}" if record["note"] else told


def _each_face(faces: Sequence[Mapping[str, Any]]) -> str:
    """Say what became of each face, in a list."""
    lines = []
    for number, face in enumerate(faces, start=1):
        facts = [] if face["width"] is None else [f"about {face['width']:.0f} pixels wide"]
        if face["angle"] is not None:
            flag = " **(flagged)**" if face["flagged"] else ""
            facts.append(f"identity turned by {face['angle']:.0f}°{flag}")
        if face["reason"]:
            facts.append(f"left as it was: {escaped(face['reason'])}")
        lines.append(f"- face {number}: {', '.join(facts)}")
    return "\n".join(lines)


def picked(
    chosen: gr.SelectData, before: Any, after: Any, gates: Any
) -> tuple[tuple[str, str], gr.Image]:
    """Show what was picked in the slider, and its gate if it has one."""
    one, other, gate = (kind[chosen.index][0] for kind in (before, after, gates))
    return (one, other), gr.Image(gate, visible=gate != one)


def _within(start: float, end: float, scale: float, size: int) -> slice:
    return slice(max(0, int(start * scale)), min(size, max(1, int(end * scale))))


def _resized(image: Image, width: int, height: int) -> Image:
    if (width, height) == (image.shape[1], image.shape[0]):
        return image
    shrinks = width < image.shape[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, (width, height), interpolation=how), dtype=np.uint8)


def _saved(image: Image) -> str:
    encoded = photograph.encode(Photograph(image, "webp"), format="webp", quality=_SHOWN_QUALITY)
    return _cached(encoded, "view.webp")


def _cached(data: bytes, name: str) -> str:
    """Write a file where the page serves from."""
    return str(save_bytes_to_cache(data, name, os.environ["GRADIO_TEMP_DIR"]))


def escaped(text: str) -> str:
    """Keep Markdown from reading what came with a request, or from a server, as its own."""
    return re.sub(r"([\\`*_{}\[\]()<>#+!|~$-])", r"\\\1", text)
