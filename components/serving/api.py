"""The endpoint's routes. One deadline covers a whole request for a restoration."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Router
from starlette.types import ASGIApp

from components import images
from components.serving import answers, job_routes, requests
from components.serving.guard import Guard
from components.serving.job_routes import JobStore
from components.serving.keys import Keys
from components.serving.model import ModelState
from components.serving.params import JobLimits
from components.serving.refusal import Refusal, too_late
from components.serving.requests import BoundedBody
from components.serving.sites import Sites
from components.serving.steps import Limits, Parts, Steps


def build(
    parts: Parts,
    *,
    limits: Limits,
    keys: Keys | None,
    threads: int,
    hosts: Sequence[str] = (),
    jobs: tuple[JobStore, JobLimits] | None = None,
    page: ASGIApp | None = None,
) -> FastAPI:
    """Make the application.

    Args:
        parts: what finds and restores faces.
        limits: of a request.
        keys: the accepted API keys; None: only this machine may send requests.
        threads: number of threads for decoding, pasting and encoding.
        hosts: names that the server answers to, beside those of loopback.
        jobs: what works on jobs, and how large these may be; None: there are no jobs.
        page: the application for all paths that are no route here, above all `/`.
    """
    app = FastAPI(title="HDRFace", summary="Blind face restoration", redoc_url=None)
    steps = Steps(parts, limits, threads)
    api = Api(steps)
    app.add_api_route(
        "/v1/restore", api.restore, methods=["POST"], openapi_extra=requests.openapi()
    )
    app.add_api_route("/v1/models", api.models, methods=["GET"])
    app.add_api_route("/healthz", api.healthz, methods=["GET"])
    app.add_api_route("/readyz", api.readyz, methods=["GET"])
    app.add_api_route("/metrics", api.metrics, methods=["GET"], include_in_schema=False)
    larger: dict[str, int] = {}
    if jobs is not None:
        store, job_limits = jobs
        job_routes.add(app, store, steps, job_limits)
        larger["/v1/jobs"] = job_limits.upload_bytes
    if page is not None:
        app.mount("/v1", Router())  # unknown paths below /v1 do not go to the page
        app.mount("/", page)
    app.add_exception_handler(Refusal, answers.handle_refusal)
    app.add_exception_handler(HTTPException, answers.handle_router_error)
    app.add_middleware(BoundedBody, max_bytes=limits.upload_bytes, larger=larger)
    app.middleware("http")(Guard(parts, keys, Sites(hosts)))
    return app


class Api:
    """The routes."""

    def __init__(self, steps: Steps) -> None:
        self._steps, self._parts = steps, steps.parts

    async def restore(self, request: Request) -> Response:
        """Restore the faces of one photograph."""
        try:
            async with asyncio.timeout(self._steps.limits.timeout_s) as deadline:
                body, asked = await requests.read(request)
                if asked.timeout_s is not None:
                    wanted = asyncio.get_running_loop().time() + asked.timeout_s
                    deadline.reschedule(min(wanted, deadline.when() or wanted))
                name = self._steps.model_name(asked.model)
                with self._steps.place(name):
                    give_up_at = _since_epoch(deadline)
                    answer = await self._steps.restore(name, body, asked, give_up_at)
        except TimeoutError:
            raise too_late().refusal() from None
        except images.ImageError as error:
            raise Refusal(422, "bad_picture", str(error)) from None
        except ValueError as error:
            raise Refusal(422, "bad_options", str(error)) from None
        request.state.model, request.state.num_restored = name, answer.record.num_restored
        return answers.photograph_response(request, answer)

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


def _since_epoch(deadline: asyncio.Timeout) -> float:
    """Return a deadline of this loop in seconds since the epoch, which other processes share."""
    when = deadline.when()
    return time.time() + (0.0 if when is None else when - asyncio.get_running_loop().time())
