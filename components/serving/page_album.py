"""The part of the page that restores several photographs: as a job, which needs no open page."""

from __future__ import annotations

import asyncio
import io
import zipfile
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from components.serving.page_client import PageClient
from components.serving.page_results import escaped, served_file

_ASK_EVERY_S = 1.0
_MAX_FOLLOWED = 64  # albums, by open pages; following one costs a small question a second


class AlbumPane:
    """Takes photographs, says how far their job is, and shows the results."""

    def __init__(self, client: PageClient, controls: Sequence[gr.components.Component]) -> None:
        self._client = client
        with gr.Accordion("Several photographs", open=False, elem_id="album"):
            files = gr.File(
                label="Photographs",
                file_count="multiple",
                file_types=["image"],
                height=160,
                elem_id="album-files",
            )
            button = gr.Button("Restore all", elem_id="restore-album")
            self._message = gr.Markdown(elem_id="album-message")
            job = gr.Textbox(
                label="Job",
                info="You may close the page: with this, it shows the album again.",
                placeholder="none yet",
                max_lines=1,
                submit_btn="Show",
                elem_id="album-job",
            )
            gallery = gr.Gallery(
                label="Restored", visible=False, object_fit="contain", elem_id="album-results"
            )
            download = gr.DownloadButton(
                "Download all", visible=False, variant="primary", elem_id="album-download"
            )
        outputs = [self._message, job, gallery, download]
        shared: dict[str, Any] = {
            "api_visibility": "private",
            "concurrency_limit": _MAX_FOLLOWED,
            "show_progress": "hidden",
        }
        button.click(self._restore, [files, *controls], outputs, **shared)
        job.submit(self._follow, [job], outputs, **shared)

    async def _restore(
        self, request: gr.Request, files: Sequence[str] | None, *values: Any
    ) -> AsyncIterator[list[Any]]:
        """Send an album and follow its job; yield the values of all outputs."""
        if not files:
            yield _shown("Choose some photographs first.", "")
            return
        forms = [("image", (Path(file).name, Path(file).read_bytes())) for file in files]
        answer = await self._client.ask(
            request, "POST", "/v1/jobs", data=self._client.options(values), files=forms
        )
        content = answer.json()
        if answer.is_error:
            yield _shown(f"**Not restored:** {escaped(content['error']['message'])}", "")
            return
        async for shown in self._follow(request, content["id"]):
            yield shown

    async def _follow(self, request: gr.Request, job: str) -> AsyncIterator[list[Any]]:
        """Say how far a job is, until its results are there; yield the values of all outputs."""
        path = f"/v1/jobs/{''.join(filter(str.isalnum, job))}"
        while True:
            answer = await self._client.ask(request, "GET", path)
            state = answer.json()
            if answer.is_error:
                yield _shown(escaped(state["error"]["message"]), job)
                return
            if state["status"] == "finished":
                break
            done, count = state["num_finished"], state["num_files"]
            yield _shown(f"{done} of {count} photographs finished", job)
            await asyncio.sleep(_ASK_EVERY_S)
        pictures = []
        for file in state["files"]:
            if file["status"] == "restored":
                fetched = await self._client.ask(request, "GET", file["url"])
                if not fetched.is_error:
                    pictures.append((file, fetched.content))
        yield await asyncio.to_thread(_results, job, state, pictures)


def _shown(message: str, job: str) -> list[Any]:
    """Return the values of all outputs for a message without results."""
    hidden = [gr.Gallery(None, visible=False), gr.DownloadButton(visible=False)]
    return [message, job, *hidden]


def _results(
    job: str, state: Mapping[str, Any], pictures: Sequence[tuple[Mapping[str, Any], bytes]]
) -> list[Any]:
    lines = [f"**{len(pictures)} of {state['num_files']} photographs restored**"]
    lines += [
        f"- {escaped(file['name'])}: {escaped(file['error']['message'])}"
        for file in state["files"]
        if file["status"] == "refused"
    ]
    lines.append(f"Kept until {escaped(state['expires'])}")
    if not pictures:
        return _shown("\n\n".join(lines), job)
    views, packed = [], io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for number, (file, data) in enumerate(pictures, start=1):
            suffix = file["media_type"].removeprefix("image/")
            name = f"{number:03}-{Path(file['name']).stem[:80]}.{suffix}"
            archive.writestr(name, data)
            views.append((served_file(data, f"restored.{suffix}"), file["name"]))
    archive_file = served_file(packed.getvalue(), "restored.zip")
    return [
        "\n\n".join(lines),
        job,
        gr.Gallery(views, visible=True),
        gr.DownloadButton(value=archive_file, visible=True),
    ]
