"""The parts of the endpoint as deployments of Ray Serve: finder, models, counters, jobs, page.

Each part has its own processes. If a replica dies, its calls are repeated on another one within the
request's deadline; a call to a full queue is refused at once (`components.serving.handles`).
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import prometheus_client
from starlette.applications import Starlette
from starlette.types import Message, Scope

from components import cluster, logs
from components.faces.detect import Detection, Detector, open_detector
from components.images import Image
from components.photographs import restoration
from components.photographs.options import RestoreOptions
from components.photographs.restoration import Prepared
from components.serving.batching import Batcher
from components.serving.forwarding import answered
from components.serving.guard import Event
from components.serving.job_files import JobFile, Order
from components.serving.jobs import Jobs
from components.serving.model import FacesAnswer, FacesRequest, FollowingModel, ModelState
from components.serving.rates import Allowance, Rates
from components.serving.refusal import Refused, as_value

T = TypeVar("T")

log = logging.getLogger(__name__)

_RETRY_AFTER_S = 0.2
_STATES_EVERY_S = 1.0
_COUNT_EVERY_S = 0.5
_CALL_TIMEOUT_S = 5.0  # of a call in background work


class FaceFinder:
    """Finds the faces of photographs and cuts them out."""

    def __init__(self, detector: Path | None, min_score: float, cpus: float) -> None:
        logs.configure()
        cluster.limit_threads(cpus)
        self._detector: Detector | None = None
        if detector is not None:
            self._detector = open_detector(detector, min_score=min_score)
        self._threads = ThreadPoolExecutor(max(1, int(cpus)), thread_name_prefix="finder")

    async def find(self, image: Image, options: RestoreOptions, size: int) -> Prepared | Refused:
        """Do as `restoration.prepare`."""
        work = partial(restoration.prepare, image, self._detector, options, size=size)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except ValueError as error:
            return Refused(422, "bad_options", str(error))

    async def detect(self, image: Image) -> list[Detection] | Refused:
        """Find the faces of a video's frame."""
        if self._detector is None:
            return Refused(422, "bad_options", "this server has no face detector: set 'aligned'")
        work = partial(self._detector.detect, image)
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


class Model:
    """Restores the faces of many requests at once, with the newest version of its source."""

    def __init__(
        self,
        name: str,
        follow: Callable[[], FollowingModel],
        *,
        look_every_s: float,
        max_batch: int,
        batch_wait_s: float,
        cpus: float,
    ) -> None:
        logs.configure()
        cluster.limit_threads(cpus)
        self._name, self._look_every_s = name, look_every_s
        self._model = follow()
        self._together = Batcher(
            self._model.restore,
            size=lambda asked: max(1, len(asked.faces)),
            max_size=max_batch,
            wait_s=batch_wait_s,
        )
        # Before Serve sends requests here. If no model can be loaded, the answers say so.
        self._model.follow()
        self._is_over = threading.Event()
        threading.Thread(target=self._follow, daemon=True, name="follow-source").start()

    def _follow(self) -> None:
        while not self._is_over.wait(self._look_every_s):
            self._model.follow()

    async def restore(self, asked: FacesRequest) -> FacesAnswer | Refused:
        """Restore the faces of a request, in a batch with those of other requests."""
        return await self._together(asked)

    async def state(self) -> ModelState:
        """Return the state of this replica's model."""
        return self._model.state(self._name)

    def __del__(self) -> None:
        self._is_over.set()


class Meter:
    """Counts for all replicas of the ingress: a scrape reaches only one of them.

    If it is lost, all counts begin anew, those of a key's rate too.
    """

    def __init__(self, requests_per_minute: int | None) -> None:
        self._rates = None if requests_per_minute is None else Rates(requests_per_minute)
        self._registry = prometheus_client.CollectorRegistry()
        self._requests = prometheus_client.Counter(
            "hdrface_requests", "Answered requests", ["model", "status"], registry=self._registry
        )
        self._faces = prometheus_client.Counter(
            "hdrface_faces", "Restored faces", ["model"], registry=self._registry
        )
        self._seconds = prometheus_client.Histogram(
            "hdrface_request_seconds", "From arrival to answer", registry=self._registry
        )

    async def add(self, events: Sequence[Event]) -> None:
        for event in events:
            self._requests.labels(event.model, str(event.status)).inc()
            self._seconds.observe(event.seconds)
            if event.faces:
                self._faces.labels(event.model).inc(event.faces)

    async def take(self, owner: str) -> Allowance | None:
        """Count a request against its owner's rate."""
        return None if self._rates is None else self._rates.take(owner)

    async def text(self) -> bytes:
        return prometheus_client.generate_latest(self._registry)


class JobsWorker:
    """The jobs of all ingress replicas; what they must not lose is in a storage."""

    async def __init__(self, make: Callable[[], Jobs]) -> None:  # type: ignore[misc]
        logs.configure()
        self._jobs = make()
        await self._jobs.start()

    async def add(self, job: str, order: Order) -> dict[str, Any] | Refused:
        return await as_value(self._jobs.add(job, order))

    async def state(self, owner: str, job: str) -> dict[str, Any] | Refused:
        return await as_value(self._jobs.state(owner, job))

    async def file(self, owner: str, job: str, number: int) -> JobFile | Refused:
        return await as_value(self._jobs.file(owner, job, number))

    async def remove(self, owner: str, job: str) -> Refused | None:
        return await as_value(self._jobs.remove(owner, job))


class Page:
    """The page; it has one process, because Gradio's queue is in its memory."""

    async def __init__(self, make: Callable[[], Starlette]) -> None:  # type: ignore[misc]
        logs.configure()
        self._app = make()
        self._lifespan = self._app.router.lifespan_context(self._app)
        await self._lifespan.__aenter__()

    async def answer(self, scope: Scope, body: bytes) -> AsyncGenerator[Message, None]:
        """Answer one HTTP request, message by message."""
        async with aclosing(answered(self._app, scope, body)) as messages:
            async for message in messages:
                yield message

    async def __del__(self) -> None:
        await self._lifespan.__aexit__(None, None, None)
