"""The endpoint's routes, and the steps of one request: decode, find, restore, finish.

Finding and restoring run in other processes, behind `Parts`; decoding, pasting and encoding run in
threads of this process. One deadline covers the whole request.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Protocol

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Router
from starlette.types import ASGIApp

from components import images
from components.images import Image
from components.photographs import photograph, restoration
from components.photographs.options import RestoreOptions
from components.photographs.photograph import Photograph
from components.photographs.records import PhotographRecord
from components.photographs.restoration import Prepared
from components.serving import answers, requests
from components.serving.answers import PhotographAnswer
from components.serving.guard import Counts, Guard
from components.serving.keys import Keys
from components.serving.model import FacesAnswer, FacesRequest, ModelState
from components.serving.refusal import Refusal, another_version, busy, not_ready, too_late
from components.serving.requests import Body, BoundedBody, RequestOptions
from components.serving.sites import Sites


class Parts(Counts, Protocol):
    """What finds and restores faces, in whatever process."""

    @property
    def names(self) -> Sequence[str]:
        """Return the names of the models; the first is the default."""

    async def find(self, image: Image, options: RestoreOptions, size: int) -> Prepared:
        """Find the faces and cut them out, `size` wide. Raises: Refusal."""

    async def restore(self, model: str, asked: FacesRequest) -> FacesAnswer:
        """Restore faces. Raises: Refusal."""

    async def states(self) -> Sequence[ModelState]:
        """Return the state of each model."""

    async def metrics(self) -> bytes:
        """Return all counts in Prometheus' text format."""


@dataclass(frozen=True)
class Limits:
    """What one request may cost."""

    upload_bytes: int
    pixels: int
    faces: int
    timeout_s: float
    waiting: int  # requests for one model; more are refused, but not those for other models


def build(
    parts: Parts,
    *,
    limits: Limits,
    keys: Keys | None,
    threads: int,
    hosts: Sequence[str] = (),
    page: ASGIApp | None = None,
) -> FastAPI:
    """Make the application.

    Args:
        parts: what finds and restores faces.
        limits: of a request.
        keys: the accepted API keys; None: only this machine may send requests.
        threads: number of threads for decoding, pasting and encoding.
        hosts: names that the server answers to, beside those of loopback.
        page: the application for all paths that are no route here, above all `/`.
    """
    app = FastAPI(title="HDRFace", summary="Blind face restoration", redoc_url=None)
    api = Api(parts, limits, threads)
    app.add_api_route(
        "/v1/restore", api.restore, methods=["POST"], openapi_extra=requests.openapi()
    )
    app.add_api_route("/v1/models", api.models, methods=["GET"])
    app.add_api_route("/healthz", api.healthz, methods=["GET"])
    app.add_api_route("/readyz", api.readyz, methods=["GET"])
    app.add_api_route("/metrics", api.metrics, methods=["GET"], include_in_schema=False)
    if page is not None:
        app.mount("/v1", Router())  # unknown paths below /v1 do not go to the page
        app.mount("/", page)
    app.add_exception_handler(Refusal, answers.handle_refusal)
    app.add_exception_handler(HTTPException, answers.handle_router_error)
    app.add_middleware(BoundedBody, max_bytes=limits.upload_bytes)
    app.middleware("http")(Guard(parts, keys, Sites(hosts)))
    return app


class Api:
    """The routes."""

    def __init__(self, parts: Parts, limits: Limits, threads: int) -> None:
        self._parts, self._limits = parts, limits
        self._waiting: Counter[str] = Counter()  # requests by model
        # The loop's default pool has a thread for every core, more than the ingress may use.
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="pictures")

    async def restore(self, request: Request) -> Response:
        """Restore the faces of one photograph."""
        try:
            async with asyncio.timeout(self._limits.timeout_s) as deadline:
                body, asked = await requests.read(request)
                if asked.timeout_s is not None:
                    wanted = asyncio.get_running_loop().time() + asked.timeout_s
                    deadline.reschedule(min(wanted, deadline.when() or wanted))
                name = self._model_name(asked.model)
                with self._place(name):
                    answer = await self._restore(name, body, asked, _since_epoch(deadline))
        except TimeoutError:
            raise too_late().refusal() from None
        except images.ImageError as error:
            raise Refusal(422, "bad_picture", str(error)) from None
        except ValueError as error:
            raise Refusal(422, "bad_options", str(error)) from None
        request.state.model, request.state.num_restored = name, answer.record.num_restored
        return answers.photograph_response(request, answer)

    @contextlib.contextmanager
    def _place(self, name: str) -> Iterator[None]:
        """Hold one of the places for requests to a model. Raises: Refusal if all are taken."""
        if self._waiting[name] >= self._limits.waiting:
            raise busy().refusal()
        self._waiting[name] += 1
        try:
            yield
        finally:
            self._waiting[name] -= 1

    async def _restore(
        self, name: str, body: Body, asked: RequestOptions, give_up_at: float
    ) -> PhotographAnswer:
        clock = _Clock()
        most = self._limits.pixels
        photo = await self._run(photograph.read, body.image, max_pixels=most)
        first: Image | None = None
        if body.intermediate is not None:
            first = await self._run(images.decode, body.intermediate, max_pixels=most)
        clock.lap("decode")
        try:
            prepared, faces, size = await self._faces(photo, first, name, asked, give_up_at, clock)
        except Refusal as refusal:
            if refusal.refused != another_version():
                raise
            prepared, faces, size = await self._faces(photo, first, name, asked, give_up_at, clock)
        file, record, kind = await self._run(_finish, photo, prepared, faces, size, asked)
        clock.lap("finish")
        return PhotographAnswer(file, kind, record, prepared, faces, clock.laps)

    async def _faces(
        self,
        photo: Photograph,
        first: Image | None,
        name: str,
        asked: RequestOptions,
        give_up_at: float,
        clock: _Clock,
    ) -> tuple[Prepared, FacesAnswer, int]:
        """Find and restore the faces; return both, and the model's size."""
        [state] = [one for one in await self._parts.states() if one.name == name]
        if state.size is None:
            raise not_ready(state.problem).refusal()
        options, pixels = asked.restoring(), photo.pixels
        prepared = await self._parts.find(pixels, options, state.size)
        clock.lap("find")
        if (found := len(prepared.squares)) > self._limits.faces:
            most = self._limits.faces
            message = f"the picture has {found} faces: this server restores at most {most}"
            raise Refusal(422, "too_many_faces", message)
        firsts = None
        if first is not None:
            cut = restoration.cut_intermediates
            firsts = await self._run(cut, pixels, first, prepared.faces, options, size=state.size)
        faces = FacesRequest(prepared.squares, asked.fidelity, asked.color_fix, firsts, give_up_at)
        restored = await self._parts.restore(name, faces)
        if asked.max_angle is not None and restored.angles is None:
            message = "max_angle: this server has no identity network to measure angles with"
            raise Refusal(422, "bad_options", message)
        clock.lap("restore")
        return prepared, restored, state.size

    def _model_name(self, asked: str | None) -> str:
        if asked is not None and asked not in self._parts.names:
            there = ", ".join(self._parts.names)
            raise Refusal(404, "no_such_model", f"no model {asked[:60]!r}: there are {there}")
        return asked or self._parts.names[0]

    async def _run(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, lambda: function(*arguments, **named))

    async def models(self) -> Sequence[ModelState]:
        """List the models and their versions."""
        return await self._parts.states()

    async def healthz(self) -> dict[str, str]:
        """Answer that the server is alive."""
        return {"status": "alive"}

    async def readyz(self) -> Response:
        """Answer whether every model can restore, and if not, what is missing."""
        states = await self._parts.states()
        problems = {state.name: state.problem for state in states if state.size is None}
        if problems:
            return JSONResponse({"status": "not ready", "problems": problems}, 503)
        return JSONResponse({"status": "ready"})

    async def metrics(self) -> Response:
        """Return Prometheus' counters."""
        return Response(await self._parts.metrics(), media_type="text/plain; version=0.0.4")


def _finish(
    photo: Photograph, prepared: Prepared, faces: FacesAnswer, size: int, asked: RequestOptions
) -> tuple[bytes, PhotographRecord, str]:
    """Paste the faces and encode the picture; return its file, its record and its media type."""
    canvas, record = restoration.finish(
        photo.pixels,
        prepared,
        [face.image for face in faces.faces],
        asked.restoring(),
        size=size,
        angles=faces.angles,
    )
    kind = asked.format or photo.format
    file = photograph.encode(replace(photo, pixels=canvas), format=kind, quality=asked.quality)
    return file, record, f"image/{kind}"


def _since_epoch(deadline: asyncio.Timeout) -> float:
    """Return a deadline of this loop in seconds since the epoch, which other processes share."""
    when = deadline.when()
    return time.time() + (0.0 if when is None else when - asyncio.get_running_loop().time())


class _Clock:
    """Measures how long each step takes."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._since = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = round(now - self._since, 4)
        self._since = now
