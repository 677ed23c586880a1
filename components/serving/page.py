"""The page at `/`: restore a photograph and compare it, face by face.

It sends requests to the endpoint as any client does, with the visitor's key. The server keeps only
a visitor's files, for an hour; there are no sessions, so an open page costs nothing.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI
from starlette.types import ASGIApp

from components.param_fields import ParamField, fields_of
from components.serving import page_results
from components.serving.page_album import AlbumPane
from components.serving.page_client import DEFAULT, PageClient
from components.serving.page_results import ResultPane
from components.serving.requests import RequestOptions

TITLE = "HDRFace"
_KEEP_FILES_S = 3600
_MAX_RUNNING = 8  # restorations; the endpoint has its own limits
_MAX_WAITING = 64
_LOOK_FOR_WORK_EVERY_S = 0.05

# Options that are always visible; the others are below "More options".
_MAIN_OPTIONS = ("model", "scale", "only_center_face")
_NOT_ON_PAGE = ("timeout_s",)
_NEED_ANGLES = ("max_angle", "leave_flagged")
_SLIDER_STEP = 0.05  # of numbers that are not whole

_CSS = """
.gradio-container { max-width: 1200px !important; margin: auto }
#faces .grid-wrap { min-height: 0; padding-top: 2.4rem }
#faces .grid-container { grid-template-columns: repeat(auto-fill, minmax(6.5rem, 1fr)) !important }
#gate img { width: 100%; height: 100%; object-fit: contain; image-rendering: pixelated }
"""

# Gradio's slider supports only the mouse. With this, arrow keys move its divider by a twentieth.
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
    """The endpoint that the page sends requests to."""

    api: ASGIApp
    models: Sequence[str]  # the first is the default
    finds_faces: bool  # if not, all photographs must be aligned
    measures_angles: bool
    upload_bytes: int


def build(server: Server) -> FastAPI:
    """Make the page's application."""
    # Only this user can read the folder: it holds people's photographs.
    folder = tempfile.TemporaryDirectory(prefix="hdrface-page-")
    os.environ["GRADIO_TEMP_DIR"] = folder.name
    blocks = _blocks(server)
    blocks.queue(max_size=_MAX_WAITING, default_concurrency_limit=_MAX_RUNNING, api_open=False)
    # By default it looks for work a thousand times a second, which takes 6 % of a core.
    blocks._queue.sleep_when_free = _LOOK_FOR_WORK_EVERY_S
    app = FastAPI(openapi_url=None, lifespan=partial(_remove_at_end, folder))
    gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        footer_links=[],
        run_history=False,
        show_error=False,  # an unexpected error may contain paths
        max_file_size=server.upload_bytes,
        ssr_mode=False,
        # The theme's own fonts would be fetched from another server.
        theme=gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        css=_CSS,
        head=_HEAD,
    )
    return app


@asynccontextmanager
async def _remove_at_end(
    folder: tempfile.TemporaryDirectory[str], _: FastAPI
) -> AsyncIterator[None]:
    with folder:
        yield


def _blocks(server: Server) -> Any:
    with gr.Blocks(
        title=TITLE, analytics_enabled=False, delete_cache=(_KEEP_FILES_S // 4, _KEEP_FILES_S)
    ) as blocks:
        gr.Markdown(f"# {TITLE}\nDrop or paste a photograph to restore its faces.")
        with gr.Row():
            with gr.Column(scale=2, min_width=280):
                photo = gr.Image(
                    label="Photograph", sources=["upload", "clipboard"], elem_id="photograph"
                )
                # Gradio does not open the file: the endpoint explains better what is wrong with it.
                photo.preprocess = _path_of  # type: ignore[assignment]
                button = gr.Button("Restore", variant="primary", elem_id="restore")
                controls = _controls(server)
            with gr.Column(scale=3, min_width=320):
                message = gr.Markdown(elem_id="message")
                pane = ResultPane()
                client = PageClient(server.api, list(controls))
                AlbumPane(client, list(controls.values()))

        async def restore(request: gr.Request, file: str | None, *values: Any) -> list[Any]:
            return await _restore(client, request, file, *values)

        outputs = [message, *pane.components]
        gr.on(
            [photo.upload, button.click],
            restore,
            [photo, *controls.values()],
            outputs,
            api_visibility="private",
        )
        photo.clear(lambda: page_results.message_only(""), None, outputs, api_visibility="private")
        pane.faces.select(
            page_results.show_view, pane.views, [pane.slider, pane.gate], api_visibility="private"
        )
    return blocks


def _controls(server: Server) -> dict[str, gr.components.Component]:
    """Lay out one control for each option of a request, by the option's name."""
    hidden = {*_NOT_ON_PAGE}
    if len(server.models) == 1:
        hidden.add("model")
    if not server.measures_angles:
        hidden.update(_NEED_ANGLES)
    fields = {field.name: field for field in fields_of(RequestOptions) if field.name not in hidden}
    if "model" in fields:
        fields["model"] = replace(fields["model"], choices=tuple(server.models))
    main = {name: _control(fields.pop(name)) for name in _MAIN_OPTIONS if name in fields}
    with gr.Accordion("More options", open=not server.finds_faces):
        more = {name: _control(field) for name, field in fields.items()}
    if not server.finds_faces:
        more["aligned"].value = True
        more["aligned"].info = "This server has no face detector."
    return main | more


def _control(field: ParamField) -> gr.components.Component:
    """Make the control of an option from its schema: its first sentence is the label."""
    label, _, more = field.description.removesuffix(".").partition(". ")
    text: dict[str, Any] = {"label": label, "info": f"{more}." if more else None}
    is_whole = field.type is int
    if field.choices:
        return gr.Dropdown([DEFAULT, *field.choices], value=field.default or DEFAULT, **text)
    if field.type is bool:
        return gr.Checkbox(field.default, **text)
    if field.default is not None and field.low is not None and field.high is not None:
        step = 1 if is_whole else _SLIDER_STEP
        return gr.Slider(field.low, field.high, field.default, step=step, **text)
    if field.default is None:  # Gradio sends a number that is left empty as 0
        return gr.Textbox(placeholder=DEFAULT, **text)
    return gr.Number(
        field.default,
        precision=0 if is_whole else None,
        minimum=field.low,
        maximum=field.high,
        **text,
    )


async def _restore(
    client: PageClient, request: gr.Request, file: str | None, *values: Any
) -> list[Any]:
    """Restore a file; return the values of all outputs, in their order."""
    if file is None:
        return page_results.message_only("Choose a photograph first.")
    data = Path(file).read_bytes()
    answer = await client.ask(
        request,
        "POST",
        "/v1/restore",
        params=client.options(values),
        content=data,
        headers={"content-type": "application/octet-stream", "accept": "application/json"},
    )
    content = answer.json()
    if answer.is_error:
        return page_results.message_only(
            f"**Not restored:** {page_results.escaped(content['error']['message'])}"
        )
    return await asyncio.to_thread(page_results.values_for, Path(file), data, content)


def _path_of(upload: Any) -> Any:
    return None if upload is None else upload.path
