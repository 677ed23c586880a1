"""What the processes of the ingress, of the jobs and of the page run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import FastAPI
from ray.serve import get_deployment_handle

from components import cluster, logs
from components.serving import api
from components.serving.handles import ServeJobs, ServeParts, forward_to
from components.serving.job_work import JobWork
from components.serving.jobs import Jobs
from components.serving.keys import Keys
from components.serving.params import ServeParams
from components.serving.steps import Limits, Steps
from components.storage import Storage, open_storage


class Ingress:
    """Takes the other deployments as arguments, so that Serve deploys them too."""

    def __init__(self, finder: Any, models: Any, meter: Any, jobs: Any, page: Any) -> None:
        del finder, models, meter, jobs, page


def routes(params: ServeParams, *, with_page: bool) -> FastAPI:
    """Make the HTTP routes, in the process that answers them."""
    logs.configure()
    cluster.limit_threads(params.ingress.cpus)
    return api.build(
        _parts(params),
        limits=_limits(params),
        keys=None if params.keys is None else Keys(params.keys),
        threads=max(1, int(params.ingress.cpus)),
        hosts=params.hosts,
        jobs=(ServeJobs(get_deployment_handle("jobs")), params.jobs),
        page=forward_to(get_deployment_handle("page")) if with_page else None,
    )


def jobs(params: ServeParams, place: cluster.Workplace) -> Jobs:
    """Make what works on jobs, in its process. Raises: ValueError if their folder is no storage."""
    place.enter()
    cluster.limit_threads(params.ingress.cpus)
    steps = Steps(_parts(params), _limits(params), max(1, int(params.ingress.cpus)))
    return Jobs(_storage(params.jobs.folder), params.jobs, JobWork(steps))


def _storage(folder: str) -> Storage:
    """Open the jobs' folder; it holds people's photographs, so only this user may read it."""
    if folder.startswith("s3://"):
        return open_storage(folder)
    path = Path(folder).absolute()
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return Storage(str(path))


def _parts(params: ServeParams) -> ServeParts:
    return ServeParts(
        get_deployment_handle("finder"),
        {name: get_deployment_handle(f"model-{name}") for name in params.models},
        get_deployment_handle("meter"),
        max_batch=params.max_batch,
        is_limited=params.requests_per_minute is not None,
    )


def _limits(params: ServeParams) -> Limits:
    return Limits(
        upload_bytes=params.upload_bytes,
        pixels=params.max_pixels,
        faces=params.max_faces,
        timeout_s=params.timeout_s,
        waiting=params.max_queued,
    )


def page(params: ServeParams) -> FastAPI:
    """Make the page, with routes of its own that it sends requests to."""
    # Only the page's process needs Gradio, which takes seconds to import.
    from components.serving.page import Server, build

    return build(
        Server(
            routes(params, with_page=False),
            list(params.models),
            finds_faces=params.detector is not None,
            measures_angles=params.identity_network is not None,
            upload_bytes=params.upload_bytes,
        )
    )
