"""What the processes of the ingress and of the page run."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from ray.serve import get_deployment_handle

from components import cluster, logs
from components.serving import api
from components.serving.deployments import ServeParts, forward_to
from components.serving.keys import Keys
from components.serving.params import ServeParams


class Ingress:
    """Takes the other deployments as arguments, so that Serve deploys them too."""

    def __init__(self, finder: Any, models: Any, meter: Any, page: Any) -> None:
        del finder, models, meter, page


def routes(params: ServeParams, *, with_page: bool) -> FastAPI:
    """Make the HTTP routes, in the process that answers them."""
    logs.configure()
    cluster.limit_threads(params.ingress.cpus)
    parts = ServeParts(
        get_deployment_handle("finder"),
        {name: get_deployment_handle(f"model-{name}") for name in params.models},
        get_deployment_handle("meter"),
        max_batch=params.max_batch,
        is_limited=params.requests_per_minute is not None,
    )
    return api.build(
        parts,
        limits=api.Limits(
            upload_bytes=params.upload_bytes,
            pixels=params.max_pixels,
            faces=params.max_faces,
            timeout_s=params.timeout_s,
            waiting=params.max_queued,
        ),
        keys=None if params.keys is None else Keys(params.keys),
        threads=max(1, int(params.ingress.cpus)),
        hosts=params.hosts,
        page=forward_to(get_deployment_handle("page")) if with_page else None,
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
