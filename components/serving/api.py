"""The HTTP side: who may ask, what comes in, what goes out, and how an error is said.

Finding and restoring happen elsewhere, behind `Parts`; decoding, pasting and encoding in threads
of this process. A request has one deadline from its first byte to its last.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import ipaddress
import logging
import re
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
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
from components.photographs.face_restorer import RestoredFace
from components.photographs.photograph import Photograph
from components.photographs.restoration import PhotographRecord, Prepared, RestoreOptions
from components.reporting.gallery import heat_map
from components.serving import requests
from components.serving.keys import Keys
from components.serving.model import FacesToRestore, ModelState, RestoredFaces
from components.serving.refusal import (
    Refusal,
    Refused,
    another_version,
    busy,
    not_ready,
    too_late,
)
from components.serving.requests import BoundedBody, RequestOptions

log = logging.getLogger("hdrface.access")

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_MAX_HEADER_BYTES = 32_768  # of all headers; HTTP itself has no limit
_CLIENT_LEFT = 499  # nobody is answered with it: as nginx's log has it
_OPEN = ("/healthz", "/readyz", "/docs", "/openapi.json")  # to everybody


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
    waiting: int  # requests for one model: the next ones are refused, those for others are not


def build(
    parts: Parts, *, limits: Limits, keys: Keys | None, threads: int, page: ASGIApp | None = None
) -> FastAPI:
    """Make the application.

    Args:
        parts: what restores.
        limits: of a request.
        keys: who may ask; None: only this machine may.
        threads: for decoding, pasting and encoding.
        page: answers what is no route of the endpoint's own, `/` first of all.
    """
    app = FastAPI(title="HDRFace", summary="Blind face restoration", redoc_url=None)
    api = Api(parts, limits, threads)
    app.add_api_route(
        "/v1/restore", api.restore, methods=["POST"], openapi_extra=requests.described()
    )
    app.add_api_route("/v1/models", api.models, methods=["GET"])
    app.add_api_route("/healthz", api.healthz, methods=["GET"])
    app.add_api_route("/readyz", api.readyz, methods=["GET"])
    app.add_api_route("/metrics", api.metrics, methods=["GET"], include_in_schema=False)
    if page is not None:
        app.mount("/v1", Router())  # what is unknown there is not the page's
        app.mount("/", page)
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(HTTPException, _no_route)
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
        response: Response
        who = "-"
        try:
            _check_headers(request)
            who = self._who(request)
        except Refusal as refusal:
            response = _error(request, refusal.refused)
            if refusal.refused.status == 401:
                # A browser asks for a name and a password then: the key is the password.
                page = not request.url.path.startswith("/v1/")
                response.headers["WWW-Authenticate"] = "Basic" if page else "Bearer"
        else:
            try:
                response = await self._answered(request, call_next)
            except asyncio.CancelledError:  # Serve ends a request whose client has left
                self._note(request, _CLIENT_LEFT, started, who)
                raise
        self._note(request, response.status_code, started, who)
        return response

    def _note(self, request: Request, status: int, started: float, who: str) -> None:
        """Write a line, and count the request if it is one for a restoration."""
        seconds = time.perf_counter() - started
        log.info(
            "%s %s %s %d %.3f s %s",
            request.state.id,
            request.method,
            request.url.path[:100],
            status,
            seconds,
            who,
        )
        if request.url.path == "/v1/restore":
            model = getattr(request.state, "model", "")
            faces = getattr(request.state, "num_restored", 0)
            self._parts.count(Event(model, status, seconds, faces))

    async def _answered(
        self, request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        """Go on with a request; an unforeseen fault is counted too, and told without detail."""
        try:
            return await call_next(request)
        except Exception:
            log.exception("%s failed", request.state.id)
            message = "the server has failed at this request; its log says why"
            return _error(request, Refused(500, "failed", message))

    def _who(self, request: Request) -> str:
        """Return who asks; "-" where nobody is asked. Raises: Refusal."""
        if request.url.path in _OPEN:
            return "-"
        if self._keys is None:
            if request.client is None or not is_loopback(request.client.host):
                raise Refusal(
                    403,
                    "no_keys",
                    "this server has no API keys and answers only its own machine: whoever runs it "
                    "makes one with 'hdrface keys add NAME' and names the file in serve.keys",
                )
            return "-"
        owner = self._keys.owner(_key(request))
        if owner is None:
            raise Refusal(
                401,
                "no_key",
                "an API key is needed: Authorization: Bearer KEY, X-API-Key, or as a password",
            )
        return owner


def _check_headers(request: Request) -> None:
    """Raise Refusal if they are larger than any client's."""
    if sum(len(name) + len(value) for name, value in request.headers.raw) > _MAX_HEADER_BYTES:
        most = f"{_MAX_HEADER_BYTES:,} bytes"
        raise Refusal(431, "headers_too_large", f"the headers are larger than {most}")


def _key(request: Request) -> str:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    match scheme.lower():
        case "bearer":
            return given.strip()
        case "basic":
            with contextlib.suppress(ValueError):
                decoded = base64.b64decode(given, validate=True).decode()
                return decoded.partition(":")[2]
    return request.headers.get("x-api-key", "").strip()


def is_loopback(address: str) -> bool:
    """Say whether an IP address is this machine's own, which only itself reaches."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


class Api:
    """The routes."""

    def __init__(self, parts: Parts, limits: Limits, threads: int) -> None:
        self._parts, self._limits = parts, limits
        self._waiting: Counter[str] = Counter()  # requests by model
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
        name = self._named(asked.model)
        with self._place(name):
            return await self._restore_with(name, request, data, asked, give_up_at)

    @contextlib.contextmanager
    def _place(self, name: str) -> Iterator[None]:
        """Have a place among the requests for a model. Raises: Refusal if all are taken."""
        if self._waiting[name] >= self._limits.waiting:
            raise busy().refusal()
        self._waiting[name] += 1
        try:
            yield
        finally:
            self._waiting[name] -= 1

    async def _restore_with(
        self, name: str, request: Request, data: bytes, asked: RequestOptions, give_up_at: float
    ) -> Response:
        clock = _Clock()
        photo = await self._run(photograph.read, data, max_pixels=self._limits.pixels)
        clock.lap("decode")
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
        if asked.max_angle is not None and restored.angles is None:
            raise Refusal(
                422, "bad_options", "max_angle: this server has no identity network to measure with"
            )
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
        "X-HDRFace-Fingerprint": version.fingerprint,
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
    maps = (_gate_map(*one) for one in zip(prepared.squares, restored.faces, strict=True))
    gates = [next(maps) if face.reason is None else None for face in prepared.faces]
    return JSONResponse(
        {
            "request_id": request.state.id,
            "picture": _base64(body),
            "media_type": kind,
            "model": dataclasses.asdict(restored.version),
            "record": dataclasses.asdict(record),
            "gates": gates,  # PNG, for each face of the record that the model saw
            "seconds": clock.laps,
        }
    )


def _gate_map(square: Image, face: RestoredFace) -> str | None:
    """Draw a face's gate over it, as PNG in base64."""
    if face.gate is None:
        return None
    return _base64(images.encode_png(heat_map(square, face.gate, (0.0, 1.0))))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


async def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Refusal)
    return _error(request, error.refused)


async def _no_route(request: Request, error: Exception) -> JSONResponse:
    """Say in the same form what the router refuses: unknown paths, wrong methods."""
    assert isinstance(error, HTTPException)
    refused = Refused(error.status_code, "no_such_route", f"{error.detail}: see /docs")
    response = _error(request, refused)
    response.headers.update(error.headers or {})
    return response


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
