"""The routes of jobs: send an album or a video, ask how far it is, fetch the results."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any, Protocol
from urllib.parse import quote

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from components.serving import requests
from components.serving.job_files import JobFile, Order
from components.serving.params import JobLimits
from components.serving.refusal import Refusal
from components.serving.steps import Steps


class JobStore(Protocol):
    """What keeps jobs and works on them, in whatever process. Each method raises Refusal."""

    async def add(self, job: str, order: Order) -> dict[str, Any]:
        """Keep an order under an id, and return its state."""

    async def state(self, owner: str, job: str) -> dict[str, Any]:
        """Return how far a job is."""

    async def file(self, owner: str, job: str, number: int) -> JobFile:
        """Return a restored file."""

    async def remove(self, owner: str, job: str) -> None:
        """End a job and delete its files."""


def add(app: FastAPI, store: JobStore, steps: Steps, limits: JobLimits) -> None:
    """Add the routes to an application."""
    routes = _Routes(store, steps, limits)
    path = "/v1/jobs/{job}"
    app.add_api_route(
        "/v1/jobs",
        routes.add,
        methods=["POST"],
        status_code=202,
        openapi_extra=requests.job_openapi(),
    )
    app.add_api_route(path, routes.state, methods=["GET"])
    app.add_api_route(path, routes.remove, methods=["DELETE"], status_code=204)
    app.add_api_route(f"{path}/files/{{number}}", routes.file, methods=["GET"])


class _Routes:
    def __init__(self, store: JobStore, steps: Steps, limits: JobLimits) -> None:
        self._store, self._steps, self._limits = store, steps, limits

    async def add(self, request: Request) -> Response:
        """Take pictures, or a video, and answer the id of a job at once."""
        files, is_video, options = await requests.read_job(request, self._limits.max_files)
        self._steps.model_name(requests.options(options).model)
        if not is_video:
            self._check_sizes(files)
        order = Order(request.state.owner, options, files, is_video)
        state = await self._store.add(uuid.uuid4().hex, order)
        return JSONResponse(state, 202, {"Location": f"/v1/jobs/{state['id']}"})

    def _check_sizes(self, files: list[tuple[str, bytes]]) -> None:
        most = self._steps.limits.upload_bytes
        for name, data in files:
            if len(data) > most:
                message = f"{name[:100]!r} is larger than {most / 1e6:g} MB"
                raise Refusal(413, "too_large", message)

    async def state(self, request: Request, job: str) -> Mapping[str, Any]:
        """Answer how far a job is, and what became of each file."""
        return await self._store.state(request.state.owner, job)

    async def file(self, request: Request, job: str, number: int) -> Response:
        """Answer a restored file."""
        file = await self._store.file(request.state.owner, job, number)
        headers = {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(file.name)}"}
        return Response(file.data, media_type=file.media_type, headers=headers)

    async def remove(self, request: Request, job: str) -> Response:
        """End a job and delete its files."""
        await self._store.remove(request.state.owner, job)
        return Response(status_code=204)
