"""The page at `/`: a photograph in, its restoration beside it, face by face.

It asks the endpoint as any client does, with the key of whoever sits before it. A visitor leaves
nothing but files, which go after an hour: there are no sessions, so an open page costs nothing.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import gradio as gr
import httpx
from fastapi import FastAPI
from starlette.types import ASGIApp

from components.backbones.color_fix import ColorFix
from components.photographs.photograph import DEFAULT_QUALITY, FileFormat
from components.serving import page_results
from components.serving.page_results import ResultPane

TITLE = "HDRFace"
_FILES_LAST_S = 3600
_AT_ONCE = 8  # restorations; the endpoint has limits of its own
_WAITING = 64
_LOOK_FOR_WORK_EVERY_S = 0.05
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


def build(server: Server) -> FastAPI:
    """Make the page's application."""
    # A folder of its own, which nobody else may read: people's photographs lie there.
    folder = tempfile.TemporaryDirectory(prefix="hdrface-page-")
    os.environ["GRADIO_TEMP_DIR"] = folder.name
    blocks = _blocks(server)
    blocks.queue(max_size=_WAITING, default_concurrency_limit=_AT_ONCE, api_open=False)
    # By itself it looks for work a thousand times a second, and takes 6 % of a core for that.
    blocks._queue.sleep_when_free = _LOOK_FOR_WORK_EVERY_S
    app = FastAPI(openapi_url=None, lifespan=partial(_removed_at_the_end, folder))
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


@asynccontextmanager
async def _removed_at_the_end(
    folder: tempfile.TemporaryDirectory[str], _: FastAPI
) -> AsyncIterator[None]:
    with folder:
        yield


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
                pane = ResultPane()
        asking = _Asking(server, list(controls))
        outputs = [said, *pane.components]
        gr.on(
            [photo.upload, button.click],
            asking.answer,
            [photo, *controls.values()],
            outputs,
            api_visibility="private",
        )
        photo.clear(lambda: page_results.nothing(""), None, outputs, api_visibility="private")
        pane.faces.select(
            page_results.picked, pane.pickable, [pane.slider, pane.gate], api_visibility="private"
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


class _Asking:
    """Asks the endpoint for what the controls say."""

    def __init__(self, server: Server, names: Sequence[str]) -> None:
        self._server, self._names = server, names

    async def answer(self, request: gr.Request, file: str | None, *values: Any) -> list[Any]:
        """Restore a file; give the values of all outputs, in their order."""
        if file is None:
            return page_results.nothing("Drop a photograph first.")
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
            return page_results.nothing(
                f"**Not restored:** {page_results.escaped(content['error']['message'])}"
            )
        return await asyncio.to_thread(page_results.values_for, Path(file), data, content)


def _path_of(upload: Any) -> Any:
    return None if upload is None else upload.path
