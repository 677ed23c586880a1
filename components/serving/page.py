"""The page at `/`: a photograph in, its restoration beside it, face by face.

It asks the endpoint as any client does, with the key of whoever sits before it. A visitor leaves
nothing but files, which go after an hour: there are no sessions, so an open page costs nothing.
"""

from __future__ import annotations

import asyncio
import base64
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import cv2
import gradio as gr
import httpx
import numpy as np
from fastapi import FastAPI
from gradio.processing_utils import save_bytes_to_cache
from starlette.types import ASGIApp

from components.images import Image
from components.photographs import photograph
from components.photographs.color_fix import ColorFix
from components.photographs.photograph import DEFAULT_QUALITY, SUFFIXES, FileFormat, Photograph

TITLE = "HDRFace"
_SHOWN_SIDE = 1600  # pixels of the longer side; the download has all of them
_SHOWN_QUALITY = 92
_AROUND_FACE = 0.35  # of its box, on each side
_FILES_LAST_S = 3600
_AT_ONCE = 8  # restorations; the endpoint has limits of its own
_WAITING = 64
_FROM_FILE, _FROM_MODEL = "as it came", "as the model wants it"

_CSS = """
.gradio-container { max-width: 1200px !important; margin: auto }
#faces .grid-wrap { min-height: 0; padding-top: 2.4rem }
#faces .grid-container { grid-template-columns: repeat(auto-fill, minmax(6.5rem, 1fr)) !important }
#gate img { width: 100%; height: 100%; object-fit: contain; image-rendering: pixelated }
"""

# Gradio's slider knows the mouse alone. Arrow keys move its divider by a twentieth.
_HEAD = """<script>
(() => {
  const unnamed = "#slider .outer:not([tabindex])";
  const name = () => document.querySelectorAll(unnamed).forEach((handle) => {
    handle.tabIndex = 0;
    handle.setAttribute("role", "slider");
    handle.setAttribute("aria-label", "Divider between before and after");
  });
  new MutationObserver(name).observe(document, { childList: true, subtree: true });
  document.addEventListener("keydown", (event) => {
    const handle = event.target.closest?.("#slider .outer");
    const step = { ArrowLeft: -0.05, ArrowRight: 0.05 }[event.key];
    if (!handle || !step) return;
    event.preventDefault();
    const box = handle.getBoundingClientRect();
    const from = box.left + box.width / 2;
    const to = from + step * handle.parentElement.getBoundingClientRect().width;
    const mouse = (target, type, clientX) => target.dispatchEvent(new MouseEvent(
      type, { clientX, clientY: box.top + box.height / 2, bubbles: true, view: window }));
    mouse(handle, "mousedown", from);
    mouse(window, "mousemove", to);
    mouse(window, "mouseup", to);
  });
})();
</script>"""


@dataclass(frozen=True)
class Server:
    """The endpoint behind the page."""

    api: ASGIApp
    models: Sequence[str]  # the first is the default
    finds_faces: bool  # otherwise all photographs must be aligned
    measures_angles: bool
    upload_bytes: int


@dataclass(frozen=True)
class View:
    """What can be looked at: the whole photograph, or a face; both pictures have one size."""

    caption: str
    before: Image
    after: Image
    gate: bytes | None = None  # PNG


def build(server: Server) -> FastAPI:
    """Make the page's application."""
    # A folder of its own, which nobody else may read: people's photographs lie there.
    os.environ["GRADIO_TEMP_DIR"] = tempfile.mkdtemp(prefix="hdrface-page-")
    blocks = _blocks(server)
    blocks.queue(max_size=_WAITING, default_concurrency_limit=_AT_ONCE, api_open=False)
    app = FastAPI(openapi_url=None)
    gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        footer_links=[],
        run_history=False,
        show_error=False,  # an unexpected one may name paths
        max_file_size=server.upload_bytes,
        ssr_mode=False,
        # Its own fonts would be fetched from elsewhere.
        theme=gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        css=_CSS,
        head=_HEAD,
    )
    return app


def _blocks(server: Server) -> Any:
    with gr.Blocks(
        title=TITLE, analytics_enabled=False, delete_cache=(_FILES_LAST_S // 4, _FILES_LAST_S)
    ) as blocks:
        gr.Markdown(f"# {TITLE}\nDrop a photograph, or paste one: its faces come back restored.")
        with gr.Row():
            with gr.Column(scale=2, min_width=280):
                photo = gr.Image(
                    label="Photograph", sources=["upload", "clipboard"], elem_id="photograph"
                )
                # It is not opened here: the endpoint says best what is wrong with a file.
                photo.preprocess = _path_of  # type: ignore[assignment]
                button = gr.Button("Restore", variant="primary", elem_id="restore")
                controls = _controls(server)
            with gr.Column(scale=3, min_width=320):
                said = gr.Markdown(elem_id="said")
                shown = _Shown()
        asking = _Asking(server, list(controls))
        outputs = [said, *shown.components]
        gr.on(
            [photo.upload, button.click],
            asking.answer,
            [photo, *controls.values()],
            outputs,
            api_visibility="private",
        )
        photo.clear(lambda: _nothing(""), None, outputs, api_visibility="private")
        shown.faces.select(
            _picked, shown.kept, [shown.slider, shown.gate], api_visibility="private"
        )
    return blocks


def _controls(server: Server) -> dict[str, gr.components.Component]:
    """Lay out what can be asked for, by the names of the endpoint's options."""
    controls: dict[str, gr.components.Component] = {}
    if len(server.models) > 1:
        names = list(server.models)
        controls["model"] = gr.Dropdown(names, value=names[0], label="Model")
    controls["scale"] = gr.Slider(1, 4, 1, step=0.5, label="Enlarge")
    controls["only_center_face"] = gr.Checkbox(False, label="Only the face nearest to the centre")
    with gr.Accordion("More", open=not server.finds_faces):
        controls["aligned"] = gr.Checkbox(
            not server.finds_faces,
            label="It is one aligned face (FFHQ), nothing else",
            info=None if server.finds_faces else "This server has no face detector.",
        )
        controls["min_face"] = gr.Number(16, precision=0, minimum=1, label="Narrowest face, pixels")
        controls["fidelity"] = gr.Slider(
            0, 1, 1, step=0.05, label="Fidelity", info="Below 1 for models on Qwen-Image alone."
        )
        controls["color_fix"] = gr.Dropdown(
            [_FROM_MODEL, *get_args(ColorFix)], value=_FROM_MODEL, label="Colour fix"
        )
        if server.measures_angles:
            controls["max_angle"] = gr.Number(
                None,
                minimum=1,
                maximum=180,
                label="Flag faces whose identity turns by more, degrees",
            )
            controls["leave_flagged"] = gr.Checkbox(False, label="Leave flagged faces as they were")
        controls["format"] = gr.Dropdown(
            [_FROM_FILE, *get_args(FileFormat)], value=_FROM_FILE, label="File"
        )
        controls["quality"] = gr.Slider(
            1, 100, DEFAULT_QUALITY, step=1, label="Quality of JPEG and WebP"
        )
    return controls


class _Shown:
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
            self.kept = [gr.Gallery(visible=False) for _ in ("before", "after", "gate")]
        self.components = [
            *(self.column, self.slider, self.download, self.faces, self.gate, self.told),
            *self.kept,
        ]


class _Asking:
    """Asks the endpoint for what the controls say."""

    def __init__(self, server: Server, names: Sequence[str]) -> None:
        self._server, self._names = server, names

    async def answer(self, request: gr.Request, file: str | None, *values: Any) -> list[Any]:
        """Restore a file; give the values of all outputs, in their order."""
        if file is None:
            return _nothing("Drop a photograph first.")
        options = {
            name: str(value)
            for name, value in zip(self._names, values, strict=True)
            if value not in (None, _FROM_FILE, _FROM_MODEL)
        }
        data = Path(file).read_bytes()
        headers = {"content-type": "application/octet-stream", "accept": "application/json"}
        if key := request.headers.get("authorization"):
            headers["authorization"] = key
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(self._server.api), base_url="http://page", timeout=None
        ) as client:
            answer = await client.post("/v1/restore", params=options, content=data, headers=headers)
        content = answer.json()
        if answer.is_error:
            return _nothing(f"**Not restored:** {_escaped(content['error']['message'])}")
        return await asyncio.to_thread(_shown, Path(file), data, content)


def _nothing(said: str) -> list[Any]:
    hidden = gr.Image(None, visible=False)
    return [said, gr.Column(visible=False), None, None, None, hidden, None, *[None] * 3]


def _shown(file: Path, data: bytes, content: Mapping[str, Any]) -> list[Any]:
    """Give the values of all outputs for an answer of the endpoint."""
    picture = base64.b64decode(content["picture"])
    kind: FileFormat = content["media_type"].removeprefix("image/")
    views = list(_views(photograph.read(data), photograph.read(picture), content))
    before, after = ([_kept(getattr(view, side)) for view in views] for side in ("before", "after"))
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
        f"{_escaped(model['name'])} at {record['model_size']} pixels a face, in {seconds:.1f} s"
    )
    return f"{told}\n\n{_escaped(record['note'])}" if record["note"] else told


def _each_face(faces: Sequence[Mapping[str, Any]]) -> str:
    """Say what became of each face, in a list."""
    lines = []
    for number, face in enumerate(faces, start=1):
        facts = [] if face["width"] is None else [f"about {face['width']:.0f} pixels wide"]
        if face["angle"] is not None:
            flag = " **(flagged)**" if face["flagged"] else ""
            facts.append(f"identity turned by {face['angle']:.0f}°{flag}")
        if face["reason"]:
            facts.append(f"left as it was: {_escaped(face['reason'])}")
        lines.append(f"- face {number}: {', '.join(facts)}")
    return "\n".join(lines)


def _picked(
    picked: gr.SelectData, before: Any, after: Any, gates: Any
) -> tuple[tuple[str, str], gr.Image]:
    """Show what was picked in the slider, and its gate if it has one."""
    one, other, gate = (kept[picked.index][0] for kept in (before, after, gates))
    return (one, other), gr.Image(gate, visible=gate != one)


def _path_of(upload: Any) -> Any:
    return None if upload is None else upload.path


def _within(start: float, end: float, scale: float, size: int) -> slice:
    return slice(max(0, int(start * scale)), min(size, max(1, int(end * scale))))


def _resized(image: Image, width: int, height: int) -> Image:
    if (width, height) == (image.shape[1], image.shape[0]):
        return image
    shrinks = width < image.shape[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, (width, height), interpolation=how), dtype=np.uint8)


def _kept(image: Image) -> str:
    encoded = photograph.encode(Photograph(image, "webp"), format="webp", quality=_SHOWN_QUALITY)
    return _cached(encoded, "view.webp")


def _cached(data: bytes, name: str) -> str:
    """Write a file where the page serves from."""
    return str(save_bytes_to_cache(data, name, os.environ["GRADIO_TEMP_DIR"]))


def _escaped(text: str) -> str:
    """Keep Markdown from reading what came with a request, or from a server, as its own."""
    return re.sub(r"([\\`*_{}\[\]()<>#+!|~$-])", r"\\\1", text)
