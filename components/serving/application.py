"""The endpoint as an application of Ray Serve: its deployments, and how each of them scales.

ingress (HTTP)  ->  finder      finds the faces of a photograph
                ->  model-NAME  one for each model: restores the faces of many requests at once
                ->  meter       holds the counters behind /metrics, and of each key's rate
                ->  jobs        works on albums and videos, as a client of the finder and the models
                ->  page        shows the web page at /
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, BackpressureConfig
from ray.serve.schema import LoggingConfig

from components import cluster
from components.serving import front, sources
from components.serving.deployments import FaceFinder, JobsWorker, Meter, Model, Page
from components.serving.params import Replicas, ServeParams

_PAGE_REQUESTS = 100  # at once: one view of the page is about eighty small files


def build(params: ServeParams, place: cluster.Workplace) -> Application:
    """Put the deployments together; `place` is the folder and the settings of their processes."""
    single, queued = Replicas(cpus=0), params.max_queued
    models = {name: _model(name, source, params, place) for name, source in params.models.items()}
    meter = _deployment(Meter, "meter", single, _Load(1, queued, queued)).bind(
        params.requests_per_minute
    )
    jobs = _deployment(JobsWorker, "jobs", single, _Load(1, queued, queued)).bind(
        functools.partial(front.jobs, params, place)
    )
    page = None
    if params.page:
        load = _Load(1, _PAGE_REQUESTS, queued)
        page = _deployment(Page, "page", single, load).bind(functools.partial(front.page, params))
    # Serve accepts only a function that makes the routes, no other callable.
    ingress = serve.ingress(lambda: front.routes(params, with_page=params.page))(front.Ingress)
    load = _Load(max(1, queued // 2), queued * len(models), queued)
    application: Application = _deployment(ingress, "ingress", params.ingress, load).bind(
        _finder(params), models, meter, jobs, page
    )
    return application


@dataclass(frozen=True)
class _Load:
    """How many requests a deployment takes."""

    target: int  # for one replica; above it, the deployment grows
    # Accepted by one replica. It queues for itself what it cannot do at once: Serve asks a full
    # replica again and again, with longer and longer pauses, and the replica idles meanwhile.
    ongoing: int
    queued: int  # waiting before the replicas; more are refused with 429


def _finder(params: ServeParams) -> Any:
    load = _Load(2, params.max_queued, params.max_queued)
    detector = None if params.detector is None else params.detector.absolute()
    return _deployment(FaceFinder, "finder", params.finder, load).bind(
        detector, params.min_score, params.finder.cpus
    )


def _model(name: str, source: str, params: ServeParams, place: cluster.Workplace) -> Any:
    source = sources.absolute(source)  # replicas have another working directory
    load = _Load(params.max_batch, params.max_queued, params.max_queued)
    return _deployment(Model, f"model-{name}", params.model, load).bind(
        name,
        functools.partial(sources.follow, source, params, place),
        look_every_s=params.look_every_s,
        max_batch=params.max_batch,
        batch_wait_s=params.batch_wait_s,
        cpus=params.model.cpus,
    )


def _deployment(part: Any, name: str, replicas: Replicas, load: _Load) -> Any:
    if replicas.min == replicas.max:  # no autoscaling: Serve measures nothing
        scaling: dict[str, Any] = {"num_replicas": replicas.max}
    else:
        scaling = {
            "autoscaling_config": AutoscalingConfig(
                min_replicas=replicas.min,
                max_replicas=replicas.max,
                target_ongoing_requests=load.target,
            )
        }
    return serve.deployment(
        part,
        name=name,
        max_ongoing_requests=load.ongoing,
        max_queued_requests=load.queued,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=1),
        **scaling,
        ray_actor_options={"num_cpus": replicas.cpus, "num_gpus": replicas.gpus},
        health_check_period_s=5,
        # The ingress writes its own access log, one line for each request.
        logging_config=LoggingConfig(enable_access_log=False),
    )
