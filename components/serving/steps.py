"""The steps of one photograph: decode, find, restore, finish.

Finding and restoring run in other processes, behind `Parts`; decoding, pasting and encoding run in
threads of this process.
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

from opentelemetry import trace

from components import images
from components.faces.detect import Detection
from components.images import Image
from components.photographs import encoding, photograph, restoration
from components.photographs.options import RestoreOptions
from components.photographs.photograph import Photograph
from components.photographs.records import PhotographRecord, with_notes
from components.photographs.restoration import Prepared
from components.serving.answers import PhotographAnswer
from components.serving.guard import Counts
from components.serving.model import FacesAnswer, FacesRequest, ModelState
from components.serving.refusal import Refusal, another_version, busy, not_ready
from components.serving.requests import Body, RequestOptions

_TRACER = trace.get_tracer("hdrface")  # makes nothing as long as nobody exports spans


class Parts(Counts, Protocol):
    """What finds and restores faces, in whatever process."""

    @property
    def names(self) -> Sequence[str]:
        """Return the names of the models; the first is the default."""

    async def find(self, image: Image, options: RestoreOptions, size: int) -> Prepared:
        """Find the faces and cut them out, `size` wide. Raises: Refusal."""

    async def detect(self, image: Image) -> list[Detection]:
        """Find the faces of a video's frame. Raises: Refusal."""

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


class Steps:
    """Restores photographs with the parts of the endpoint."""

    def __init__(self, parts: Parts, limits: Limits, threads: int) -> None:
        self.parts, self.limits = parts, limits
        self._waiting: Counter[str] = Counter()  # requests by model
        # The loop's default pool has a thread for every core, more than the ingress may use.
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="pictures")

    def model_name(self, asked: str | None) -> str:
        """Return the name of the model that is asked for. Raises: Refusal if there is none."""
        if asked is not None and asked not in self.parts.names:
            there = ", ".join(self.parts.names)
            raise Refusal(404, "no_such_model", f"no model {asked[:60]!r}: there are {there}")
        return asked or self.parts.names[0]

    @contextlib.contextmanager
    def place(self, name: str) -> Iterator[None]:
        """Hold one of the places for requests to a model. Raises: Refusal if all are taken."""
        if self._waiting[name] >= self.limits.waiting:
            raise busy().refusal()
        self._waiting[name] += 1
        try:
            yield
        finally:
            self._waiting[name] -= 1

    async def size(self, name: str) -> int:
        """Return the size of a model's faces, in pixels. Raises: Refusal if it is not ready."""
        [state] = [one for one in await self.parts.states() if one.name == name]
        if state.size is None:
            raise not_ready(state.problem).refusal()
        return state.size

    async def restore(
        self, name: str, body: Body, asked: RequestOptions, give_up_at: float
    ) -> PhotographAnswer:
        """Restore the faces of a photograph with a model.

        `give_up_at` is in seconds since the epoch: models do not begin later.

        Raises: Refusal; ImageError; ValueError if an option does not fit the photograph.
        """
        clock = _Clock()
        most = self.limits.pixels
        first: Image | None = None
        with clock.step("decode"):
            photo = await self._run(photograph.read, body.image, max_pixels=most)
            if body.intermediate is not None:
                first = await self._run(images.decode, body.intermediate, max_pixels=most)
        try:
            prepared, faces, size = await self._faces(photo, first, name, asked, give_up_at, clock)
        except Refusal as refusal:
            if refusal.refused != another_version():
                raise
            prepared, faces, size = await self._faces(photo, first, name, asked, give_up_at, clock)
        with clock.step("finish"):
            file, record, kind = await self._run(
                _finish, body.image, photo, prepared, faces, size, asked
            )
        return PhotographAnswer(file, kind, record, prepared, faces, clock.seconds)

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
        options, pixels = asked.restoring(), photo.pixels
        with clock.step("find"):
            size = await self.size(name)
            prepared = await self.parts.find(pixels, options, size)
        if (found := len(prepared.squares)) > self.limits.faces:
            most = self.limits.faces
            message = f"the picture has {found} faces: this server restores at most {most}"
            raise Refusal(422, "too_many_faces", message)
        firsts = None
        with clock.step("restore"):
            if first is not None:
                cut = restoration.cut_intermediates
                firsts = await self._run(cut, pixels, first, prepared.faces, options, size=size)
            faces = FacesRequest(
                prepared.squares,
                asked.fidelity,
                asked.color_fix,
                intermediates=firsts,
                colorize=asked.colorize,
                give_up_at=give_up_at,
            )
            restored = await self.parts.restore(name, faces)
        if asked.max_angle is not None and restored.angles is None:
            message = "max_angle: this server has no identity network to measure angles with"
            raise Refusal(422, "bad_options", message)
        return prepared, restored, size

    async def _run(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, lambda: function(*arguments, **named))


def _finish(
    file: bytes,
    photo: Photograph,
    prepared: Prepared,
    faces: FacesAnswer,
    size: int,
    asked: RequestOptions,
) -> tuple[bytes, PhotographRecord, str]:
    """Paste the faces and encode the picture; return its file, its record and its media type.

    If no face was restored and nothing else is asked for, that is the file that was sent.
    """
    canvas, record = restoration.finish(
        photo.pixels,
        prepared,
        [face.image for face in faces.faces],
        asked.restoring(),
        size=size,
        problems=[face.problem for face in faces.faces],
        angles=faces.angles,
    )
    kind = asked.format or photo.format
    if (
        not record.num_restored
        and photo.file_format == kind
        and encoding.is_nothing_asked(photo, asked, asked)
    ):
        return file, record, f"image/{kind}"
    written = encoding.write(
        replace(photo, pixels=canvas),
        format=kind,
        quality=asked.quality,
        strip_metadata=asked.strip_metadata,
        restored_by=faces.version.fingerprint[:12] if record.num_restored else None,
    )
    return written.data, with_notes(record, written.notes), f"image/{kind}"


class _Clock:
    """Measures how long each step takes, and makes it a span below Ray Serve's, if these are on."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        with _TRACER.start_as_current_span(name):
            yield
        took = self.seconds.get(name, 0.0) + time.perf_counter() - started
        self.seconds[name] = round(took, 4)
