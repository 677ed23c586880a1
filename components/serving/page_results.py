"""What the page shows of an answer: the photograph and each face, before and after.

The pictures are files that the page serves; the visitor's browser knows which of them it shows.
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
from components.photographs import encoding, photograph
from components.photographs.options import FileFormat
from components.photographs.photograph import SUFFIXES, Photograph

_MAX_VIEW_SIDE = 1600  # pixels; only the download has the full size
_VIEW_QUALITY = 92  # of WebP
_FACE_MARGIN = 0.35  # on each side of a face, in sides of its box


@dataclass(frozen=True)
class View:
    """A pair of pictures to compare, of one size: the whole photograph, or one face."""

    caption: str
    before: Image
    after: Image
    gate: bytes | None = None  # PNG


class ResultPane:
    """The part of the page that shows results. Hidden galleries keep all views in the browser."""

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
                label="Choose a view",
                height="auto",
                buttons=[],
                allow_preview=False,
                object_fit="cover",
                elem_id="faces",
            )
            self.gate = gr.Image(
                label="Gate: bright parts take new details, dark parts keep the structure",
                height=260,
                interactive=False,
                buttons=[],
                visible=False,
                elem_id="gate",
            )
            with gr.Accordion("Each face", open=False):
                self.each_face = gr.Markdown(elem_id="each-face")
            self.views = [gr.Gallery(visible=False) for _ in ("before", "after", "gate")]
        self.components = [
            *(self.column, self.slider, self.download, self.faces, self.gate, self.each_face),
            *self.views,
        ]


def message_only(message: str) -> list[Any]:
    """Return the values of all outputs for a message without a result."""
    hidden = gr.Image(None, visible=False)
    return [message, gr.Column(visible=False), None, None, None, hidden, None, *[None] * 3]


def values_for(file: Path, data: bytes, content: Mapping[str, Any]) -> list[Any]:
    """Return the values of all outputs for an answer of the endpoint."""
    picture = base64.b64decode(content["picture"])
    kind: FileFormat = content["media_type"].removeprefix("image/")
    views = list(_views(photograph.read(data), photograph.read(picture), content))
    before, after = (
        [_view_file(getattr(view, side)) for view in views] for side in ("before", "after")
    )
    # A gallery has no empty places: a face without a gate has its own picture there.
    gates = [
        one if view.gate is None else served_file(view.gate, "gate.png")
        for view, one in zip(views, before, strict=True)
    ]
    captions = [view.caption for view in views]
    return [
        _headline(content),
        gr.Column(visible=True),
        (before[0], after[0]),
        served_file(picture, f"{file.stem}-restored{SUFFIXES[kind]}"),
        gr.Gallery(list(zip(after, captions, strict=True)), selected_index=0),
        gr.Image(None, visible=False),
        _each_face(content["record"]["faces"]),
        *(before, after, gates),
    ]


def _views(before: Photograph, after: Photograph, content: Mapping[str, Any]) -> Iterator[View]:
    """Make the view of the whole photograph, then one of each face."""
    large = after.pixels
    height, width = large.shape[:2]
    small = _resized(before.pixels, width, height)
    shrink = min(1.0, _MAX_VIEW_SIDE / max(width, height))
    whole = round(width * shrink), round(height * shrink)
    yield View("whole picture", _resized(small, *whole), _resized(large, *whole))
    scale = width / before.pixels.shape[1]
    faces = zip(content["record"]["faces"], content["gates"], strict=True)
    for number, (face, gate) in enumerate(faces, start=1):
        left, top, right, bottom = face["box"]
        margin = _FACE_MARGIN * max(right - left, bottom - top)
        columns = _within(left - margin, right + margin, scale, width)
        rows = _within(top - margin, bottom + margin, scale, height)
        yield View(
            f"face {number}" if face["restored"] else f"face {number}: not restored",
            small[rows, columns],
            large[rows, columns],
            None if gate is None else base64.b64decode(gate),
        )


def _headline(content: Mapping[str, Any]) -> str:
    record, model = content["record"], content["model"]
    seconds = sum(content["seconds"].values())
    text = (
        f"**{record['num_restored']} of {len(record['faces'])} faces restored** by "
        f"{escaped(model['name'])} at {record['model_size']} pixels per face, in {seconds:.1f} s"
    )
    return f"{text}\n\n{escaped(record['note'])}" if record["note"] else text


def _each_face(faces: Sequence[Mapping[str, Any]]) -> str:
    """List what was done to each face."""
    lines = []
    for number, face in enumerate(faces, start=1):
        facts = [] if face["width"] is None else [f"about {face['width']:.0f} pixels wide"]
        if face["angle"] is not None:
            flag = " **(flagged)**" if face["flagged"] else ""
            facts.append(f"identity turned by {face['angle']:.0f}°{flag}")
        if face["reason"]:
            facts.append(f"not restored: {escaped(face['reason'])}")
        lines.append(f"- face {number}: {', '.join(facts)}")
    return "\n".join(lines)


def show_view(
    chosen: gr.SelectData, before: Any, after: Any, gates: Any
) -> tuple[tuple[str, str], gr.Image]:
    """Show the chosen view in the slider, and its gate if it has one."""
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


def _view_file(image: Image) -> str:
    """Write a picture that the page shows, and return its path."""
    encoded = encoding.encode(Photograph(image, "webp"), format="webp", quality=_VIEW_QUALITY)
    return served_file(encoded, "view.webp")


def served_file(data: bytes, name: str) -> str:
    """Write a file into the folder that the page serves, and return its path."""
    return str(save_bytes_to_cache(data, name, os.environ["GRADIO_TEMP_DIR"]))


def escaped(text: str) -> str:
    """Escape text from a request or a server, so that Markdown shows it unchanged."""
    return re.sub(r"([\\`*_{}\[\]()<>#+!|~$-])", r"\\\1", text)
