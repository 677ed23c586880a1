"""The parts of the endpoint as deployments of Ray Serve: face finder, models, counters, page.

Each part has its own processes. If a replica dies, its calls are repeated on another one within the
request's deadline; a call to a full queue is refused at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import prometheus_client
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle
from starlette.applications import Starlette
from starlette.types import Message, Scope

from components import cluster, logs
from components.faces.detect import Detector, open_detector
from components.images import Image
from components.photographs import restoration
from components.photographs.options import RestoreOptions
from components.photographs.restoration import Prepared
from components.serving.batching import Batcher
from components.serving.forwarding import Forwarded, answered
from components.serving.guard import Event
from components.serving.model import FacesAnswer, FacesRequest, FollowingModel, ModelState
from components.serving.rates import Allowance, Rates
from components.serving.refusal import Refusal, Refused, another_version, busy

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


def forward_to(page: DeploymentHandle[Any]) -> Forwarded:
    """Return an application that forwards requests to the page."""

    async def ask(scope: Scope, body: bytes) -> AsyncGenerator[Message, None]:
        messages: Any = page.options(stream=True).answer.remote(scope, body)
        try:
            async for message in messages:
                yield message
        except (BackPressureError, DeploymentUnavailableError, RayActorError):
            raise Refusal(503, "unavailable", "the page does not answer: reload it") from None
        finally:
            messages.cancel()

    return Forwarded(ask)


class ServeParts:
    """Finds and restores through handles of deployments; see `components.serving.api.Parts`."""

    def __init__(
        self,
        finder: DeploymentHandle[Any],
        models: Mapping[str, DeploymentHandle[Any]],
        meter: DeploymentHandle[Any],
        *,
        max_batch: int,
        is_limited: bool,
    ) -> None:
        self.names = list(models)
        self._is_limited = is_limited
        self._finder, self._models, self._meter = finder, models, meter
        self._max_batch = max_batch
        self._events: list[Event] = []
        self._states = {name: ModelState(name, None, None, "it is starting") for name in models}
        self._background: list[asyncio.Task[None]] = []

    async def find(self, image: Image, options: RestoreOptions, size: int) -> Prepared:
        found: Prepared = await _called(lambda: self._finder.find.remote(image, options, size))
        return found

    async def restore(self, model: str, asked: FacesRequest) -> FacesAnswer:
        """Restore the faces, one full batch after the other."""
        handle, most = self._models[model].restore, self._max_batch
        pieces = [
            asked.part(start, start + most) for start in range(0, max(1, len(asked.faces)), most)
        ]
        try:
            # One by one: a photograph of many faces must not fill the queue.
            done: list[FacesAnswer] = [
                await _called(partial(handle.remote, piece)) for piece in pieces
            ]
            if len({one.version for one in done}) > 1:
                raise another_version().refusal()
        except Refusal as refusal:
            if refusal.refused == another_version():
                self._states[model] = ModelState(model, None, None, "its version is changing")
            raise
        angles = [angle for one in done for angle in one.angles or ()]
        return FacesAnswer(
            [face for one in done for face in one.faces],
            None if done[0].angles is None else angles,
            done[0].version,
        )

    async def states(self) -> Sequence[ModelState]:
        self._start()
        if any(state.size is None for state in self._states.values()):
            await self._ask_states()
        return list(self._states.values())

    def count(self, event: Event) -> None:
        self._start()
        self._events.append(event)

    async def take(self, owner: str) -> Allowance | None:
        if not self._is_limited:
            return None
        taken: Allowance | None = None
        with contextlib.suppress(asyncio.TimeoutError):  # without a meter, nothing is counted
            asked = _called(lambda: self._meter.take.remote(owner))
            taken = await asyncio.wait_for(asked, _CALL_TIMEOUT_S)
        return taken

    async def metrics(self) -> bytes:
        return await asyncio.wait_for(_called(lambda: self._meter.text.remote()), _CALL_TIMEOUT_S)

    def _start(self) -> None:
        """Start the background work; it needs a running loop.

        It gets its own context: Serve takes a task for a part of the request that started it, and
        cancels it when that request's client leaves.
        """
        if not self._background:
            self._background = [
                asyncio.create_task(_repeat(work, every_s), context=contextvars.Context())
                for work, every_s in (
                    (self._ask_states, _STATES_EVERY_S),
                    (self._send_events, _COUNT_EVERY_S),
                )
            ]

    async def _ask_states(self) -> None:
        for name, handle in self._models.items():
            with contextlib.suppress(Refusal, asyncio.TimeoutError):
                state = _called(partial(handle.state.remote))
                self._states[name] = await asyncio.wait_for(state, _CALL_TIMEOUT_S)

    async def _send_events(self) -> None:
        events, self._events = self._events, []
        if events:
            await asyncio.wait_for(_called(lambda: self._meter.add.remote(events)), _CALL_TIMEOUT_S)


async def _called(call: Callable[[], Any]) -> Any:
    """Call a deployment; repeat the call while its replica is lost. The caller has a deadline.

    Raises: Refusal.
    """
    while True:
        try:
            answer = await call()
        except RayActorError:
            await asyncio.sleep(_RETRY_AFTER_S)
        except BackPressureError:
            raise busy().refusal() from None
        except DeploymentUnavailableError:
            raise Refused(503, "unavailable", "a part of the server failed").refusal() from None
        else:
            if isinstance(answer, Refused):
                raise answer.refusal()
            return answer


async def _repeat(work: Callable[[], Awaitable[None]], every_s: float) -> None:
    while True:
        try:
            await work()
        except Exception as error:  # noqa: BLE001 - background work: the next try may succeed
            log.warning("%s", error)
        await asyncio.sleep(every_s)
