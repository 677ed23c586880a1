"""Calls of the deployments, through Serve's handles: they survive the loss of a replica."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle
from starlette.types import Message, Scope

from components.faces.detect import Detection
from components.images import Image
from components.photographs.options import RestoreOptions
from components.photographs.restoration import Prepared
from components.serving.forwarding import Forwarded
from components.serving.guard import Event
from components.serving.job_files import JobFile, Order
from components.serving.model import FacesAnswer, FacesRequest, ModelState
from components.serving.rates import Allowance
from components.serving.refusal import Refusal, Refused, another_version, busy

log = logging.getLogger(__name__)

_RETRY_AFTER_S = 0.2
_STATES_EVERY_S = 1.0
_COUNT_EVERY_S = 0.5
_CALL_TIMEOUT_S = 5.0  # of a call in background work
_JOB_TIMEOUT_S = 60.0  # of a call about a job: the next replica of its deployment must load


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

    async def detect(self, image: Image) -> list[Detection]:
        detected: list[Detection] = await _called(lambda: self._finder.detect.remote(image))
        return detected

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


class ServeJobs:
    """The jobs of the endpoint; see `components.serving.job_routes.JobStore`."""

    def __init__(self, jobs: DeploymentHandle[Any]) -> None:
        self._jobs = jobs

    async def add(self, job: str, order: Order) -> dict[str, Any]:
        state: dict[str, Any] = await self._ask(lambda: self._jobs.add.remote(job, order))
        return state

    async def state(self, owner: str, job: str) -> dict[str, Any]:
        state: dict[str, Any] = await self._ask(lambda: self._jobs.state.remote(owner, job))
        return state

    async def file(self, owner: str, job: str, number: int) -> JobFile:
        file: JobFile = await self._ask(lambda: self._jobs.file.remote(owner, job, number))
        return file

    async def remove(self, owner: str, job: str) -> None:
        await self._ask(lambda: self._jobs.remove.remote(owner, job))

    async def _ask(self, call: Callable[[], Any]) -> Any:
        try:
            return await asyncio.wait_for(_called(call), _JOB_TIMEOUT_S)
        except TimeoutError:
            raise Refusal(503, "unavailable", "the jobs do not answer: ask again") from None


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
