"""The HTTP side: who may ask, what comes in, what goes out, and how an error is said.

Finding and restoring happen elsewhere, behind `Parts`; decoding, pasting and encoding in threads
of this process. A request has one deadline from its first byte to its last.
"""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Protocol

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from components import images
from components.images import Image
from components.photographs import photograph, restoration
from components.photographs.photograph import Photograph
from components.photographs.restoration import PhotographRecord, Prepared, RestoreOptions
from components.reporting.gallery import heat_map
from components.serving import requests
from components.serving.keys import Keys
from components.serving.model import FacesToRestore, ModelState, RestoredFaces
from components.serving.refusal import Refusal, Refused, another_version, not_ready, too_late
from components.serving.requests import BoundedBody, RequestOptions

log = logging.getLogger("hdrface.access")

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_OPEN = ("/", "/healthz", "/readyz", "/docs", "/openapi.json")  # without a key


@dataclass(frozen=True)
class Event:
    """An answered request, as the metrics count it."""

    model: str
    status: int
    seconds: float
    faces: int = 0  # restored


class Parts(Protocol):
    """What restores, wherever it runs."""

    @property
    def names(self) -> Sequence[str]:
        """Name the models; the first is the default."""

    async def find(self, image: Image, options: RestoreOptions, size: int) -> Prepared:
        """Find the faces and cut them out, `size` wide. Raises: Refusal."""

    async def restore(self, model: str, asked: FacesToRestore) -> RestoredFaces:
        """Restore faces. Raises: Refusal."""

    async def states(self) -> Sequence[ModelState]:
        """Say how each model is."""

    def count(self, event: Event) -> None:
        """Count an answered request; returns at once."""

    async def metrics(self) -> bytes:
        """Give all counts in Prometheus' text format."""


@dataclass(frozen=True)
class Limits:
    """What one request may cost."""

    upload_bytes: int
    pixels: int
    faces: int
    timeout_s: float
    retry_after_s: int = 1


def build(parts: Parts, *, limits: Limits, keys: Keys | None, threads: int) -> FastAPI:
    """Make the application; without `keys` it asks for none."""
    app = FastAPI(title="HDRFace", summary="Blind face restoration", redoc_url=None)
    api = Api(parts, limits, threads)
    app.add_api_route(
        "/v1/restore", api.restore, methods=["POST"], openapi_extra=requests.described()
    )
    app.add_api_route("/v1/models", api.models, methods=["GET"])
    app.add_api_route("/healthz", api.healthz, methods=["GET"])
    app.add_api_route("/readyz", api.readyz, methods=["GET"])
    app.add_api_route("/metrics", api.metrics, methods=["GET"], include_in_schema=False)
    app.add_exception_handler(Refusal, _refused)
    app.add_middleware(BoundedBody, max_bytes=limits.upload_bytes)
    app.middleware("http")(_Guard(parts, keys))
    return app


class _Guard:
    """Names, admits, times and notes every request; no picture and no key in the log."""

    def __init__(self, parts: Parts, keys: Keys | None) -> None:
        self._parts, self._keys = parts, keys

    async def __call__(
        self, request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        started = time.perf_counter()
        # Serve gives every request an id, and sends it back; a client's own may be anything.
        given = request.headers.get("x-request-id", "")
        request.state.id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        who = self._who(request)
        response: Response
        if who is None:
            response = _error(
                request,
                Refused(
                    401, "no_key", "an API key is needed: Authorization: Bearer KEY, or X-API-Key"
                ),
            )
            response.headers["WWW-Authenticate"] = "Bearer"
        else:
            response = await call_next(request)
        seconds = time.perf_counter() - started
        log.info(
            "%s %s %s %d %.3f s %s",
            request.state.id,
            request.method,
            request.url.path[:100],
            response.status_code,
            seconds,
            who or "-",
        )
        if request.url.path == "/v1/restore":
            model = getattr(request.state, "model", "")
            faces = getattr(request.state, "num_restored", 0)
            self._parts.count(Event(model, response.status_code, seconds, faces))
        return response

    def _who(self, request: Request) -> str | None:
        """Return who asks; "-" where nobody is asked, None where a key is missing or wrong."""
        if self._keys is None or request.url.path in _OPEN:
            return "-"
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            key = request.headers.get("x-api-key", "")
        return self._keys.owner(key.strip())


class Api:
    """The routes."""

    def __init__(self, parts: Parts, limits: Limits, threads: int) -> None:
        self._parts, self._limits = parts, limits
        # Of its own: the loop's default pool is as large as the machine, decoding is not free.
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="pictures")

    async def restore(self, request: Request) -> Response:
        """Restore the faces of one photograph."""
        try:
            async with asyncio.timeout(self._limits.timeout_s) as clock:
                data, asked = await requests.read(request)
                if asked.timeout_s is not None:
                    wanted = asyncio.get_running_loop().time() + asked.timeout_s
                    clock.reschedule(min(wanted, clock.when() or wanted))
                return await self._restore(request, data, asked, _wall(clock))
        except TimeoutError:
            raise too_late().refusal() from None
        except images.ImageError as error:
            raise Refusal(422, "bad_picture", str(error)) from None
        except ValueError as error:
            raise Refusal(422, "bad_options", str(error)) from None

    async def _restore(
        self, request: Request, data: bytes, asked: RequestOptions, give_up_at: float
    ) -> Response:
        clock = _Clock()
        photo = await self._run(photograph.read, data, max_pixels=self._limits.pixels)
        clock.lap("decode")
        name = self._named(asked.model)
        try:
            work = await self._faces(photo, name, asked, give_up_at, clock)
        except Refusal as error:
            if error.refused != another_version():
                raise
            work = await self._faces(photo, name, asked, give_up_at, clock)
        body, record, kind = await self._run(_finished, photo, *work, asked)
        clock.lap("finish")
        request.state.model, request.state.num_restored = name, record.num_restored
        restored = work[1]
        if "application/json" in request.headers.get("accept", ""):
            return _as_json(request, body, kind, record, work, clock)
        return Response(body, media_type=kind, headers=_headers(record, restored, clock))

    async def _faces(
        self, photo: Photograph, name: str, asked: RequestOptions, give_up_at: float, clock: _Clock
    ) -> tuple[Prepared, RestoredFaces, int]:
        """Find and restore the faces; gives both, and the model's size."""
        [state] = [one for one in await self._parts.states() if one.name == name]
        if state.size is None:
            raise not_ready(state.problem).refusal()
        prepared = await self._parts.find(photo.pixels, asked.restoring(), state.size)
        clock.lap("find")
        if (found := len(prepared.squares)) > self._limits.faces:
            most = self._limits.faces
            raise Refusal(422, "too_many_faces", f"there are {found} faces; at most {most} go")
        faces = FacesToRestore(prepared.squares, asked.fidelity, asked.color_fix, give_up_at)
        restored = await self._parts.restore(name, faces)
        clock.lap("restore")
        return prepared, restored, state.size

    def _named(self, name: str | None) -> str:
        if name is not None and name not in self._parts.names:
            there = ", ".join(self._parts.names)
            raise Refusal(404, "no_such_model", f"no model {name[:60]!r}: there are {there}")
        return name or self._parts.names[0]

    async def _run(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, lambda: function(*arguments, **named))

    async def models(self) -> Sequence[ModelState]:
        """List the models and their versions."""
        return await self._parts.states()

    async def healthz(self) -> dict[str, str]:
        """Say that the server answers."""
        return {"status": "alive"}

    async def readyz(self) -> Response:
        """Say whether every model restores, and if not, what is missing."""
        states = await self._parts.states()
        problems = {state.name: state.problem for state in states if state.size is None}
        if problems:
            return JSONResponse({"status": "not ready", "problems": problems}, 503)
        return JSONResponse({"status": "ready"})

    async def metrics(self) -> Response:
        """Give Prometheus' counters."""
        return Response(await self._parts.metrics(), media_type="text/plain; version=0.0.4")


def _finished(
    photo: Photograph,
    prepared: Prepared,
    restored: RestoredFaces,
    size: int,
    asked: RequestOptions,
) -> tuple[bytes, PhotographRecord, str]:
    canvas, record = restoration.finish(
        photo.pixels,
        prepared,
        [face.image for face in restored.faces],
        asked.restoring(),
        size=size,
        angles=restored.angles,
    )
    kind = asked.format or photo.format
    body = photograph.encode(replace(photo, pixels=canvas), format=kind, quality=asked.quality)
    return body, record, f"image/{kind}"


def _headers(record: PhotographRecord, restored: RestoredFaces, clock: _Clock) -> dict[str, str]:
    angles = [face.angle for face in record.faces]
    version = restored.version
    about = {
        "X-HDRFace-Model": version.name,
        "X-HDRFace-Identity": version.identity,
        "X-HDRFace-Run": version.run_id or "",
        "X-HDRFace-Size": str(record.model_size),
        "X-HDRFace-Faces": str(len(record.faces)),
        "X-HDRFace-Restored": str(record.num_restored),
        "X-HDRFace-Angles": ",".join("" if angle is None else f"{angle:.1f}" for angle in angles),
        "X-HDRFace-Flagged": str(sum(face.flagged for face in record.faces)),
        "Server-Timing": ", ".join(f"{name};dur={s * 1000:.1f}" for name, s in clock.laps.items()),
    }
    return {**about, **({"X-HDRFace-Note": record.note} if record.note else {})}


def _as_json(
    request: Request,
    body: bytes,
    kind: str,
    record: PhotographRecord,
    work: tuple[Prepared, RestoredFaces, int],
    clock: _Clock,
) -> JSONResponse:
    prepared, restored, _ = work
    gates = [
        None
        if face.gate is None
        else _base64(images.encode_png(heat_map(square, face.gate, (0.0, 1.0))))
        for square, face in zip(prepared.squares, restored.faces, strict=True)
    ]
    return JSONResponse(
        {
            "request_id": request.state.id,
            "picture": _base64(body),
            "media_type": kind,
            "model": dataclasses.asdict(restored.version),
            "record": dataclasses.asdict(record),
            "gates": gates,  # PNG, one for each face that was given to the model
            "seconds": clock.laps,
        }
    )


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


async def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Refusal)
    return _error(request, error.refused)


def _error(request: Request, error: Refused) -> JSONResponse:
    about = {"code": error.code, "message": error.message, "request_id": request.state.id}
    headers = {"Retry-After": "1"} if error.status in (429, 503) else None
    return JSONResponse({"error": about}, error.status, headers)


def _wall(clock: asyncio.Timeout) -> float:
    """Give a deadline of this loop in seconds since the epoch, which other processes know."""
    when = clock.when()
    return time.time() + (0.0 if when is None else when - asyncio.get_running_loop().time())


class _Clock:
    """How long each step took."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._since = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = round(now - self._since, 4)
        self._since = now
