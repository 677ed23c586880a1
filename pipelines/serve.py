"""The endpoint: `hdrface serve`, or `serve run pipelines.serve:app` on a cluster.

    ingress (HTTP)  ->  finder (faces of a photograph)
                    ->  model-NAME, one for each model (faces of many requests at once)
                    ->  meter (the counters behind /metrics)
                    ->  page (what a browser shows at /)

Its section of params.yaml is `serve`; arguments of `serve run`, or `args` of a Serve file, stand in
for single keys: `serve run pipelines.serve:app max_faces=4`.
"""

import functools
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from components.params import PARAMS_FILE, Params, read

if TYPE_CHECKING:
    from fastapi import FastAPI
    from ray.serve import Application

    from components.cluster import Workplace
    from components.serving.model import FollowingModel, Version

APP = "hdrface"
_PAGE_REQUESTS = 100  # at once: a page is some eighty small files
_REGISTERED = "models:/"
Fraction = Annotated[float, Field(ge=0, le=1)]


class Replicas(Params):
    """How many processes a part has, and what each needs."""

    min: PositiveInt = 1
    max: PositiveInt = 1
    cpus: NonNegativeFloat = 1
    gpus: NonNegativeFloat = 0


class ServeParams(Params):
    """The section `serve`."""

    # By name: a trained folder, models:/NAME@ALIAS or models:/NAME/VERSION. The first answers when
    # none is asked for.
    models: dict[str, str]
    look_every_s: PositiveFloat  # for another version behind an alias
    self_test_psnr: NonNegativeFloat  # dB; a model that restores the fixed face worse is not taken
    detector: Path | None
    min_score: Fraction
    identity_network: Path | None
    keys: (
        Path | None
    )  # a file of `hdrface keys`; None: no key is asked for, and only loopback served
    max_upload_mb: PositiveFloat
    max_pixels: PositiveInt
    max_faces: PositiveInt
    timeout_s: PositiveFloat
    max_queued: PositiveInt  # requests that may wait for a part; the next ones get 429
    max_batch: PositiveInt  # faces
    batch_wait_s: NonNegativeFloat
    page: bool
    ingress: Replicas
    finder: Replicas
    model: Replicas


def app(arguments: dict[str, Any]) -> "Application":
    """Build the application from `params.yaml`, if it is there, and what stands in for its keys."""
    section = read().get("serve", {}) if PARAMS_FILE.is_file() else {}
    values = {**section, **arguments}
    return build(ServeParams.parse("serve", {"serve": values}))


def load(overrides: Sequence[str] = ()) -> ServeParams:
    """Read the section, with single values changed (`model.gpus=1`). Raises: ParamsError."""
    from omegaconf import OmegaConf

    section = OmegaConf.create(read().get("serve", {}))
    changes = OmegaConf.from_dotlist(list(overrides))
    if "models" in changes:  # these, not these as well
        section.models = {}
    changed = OmegaConf.merge(section, changes)
    return ServeParams.parse("serve", {"serve": OmegaConf.to_container(changed)})


def build(params: ServeParams) -> "Application":
    """Put the deployments together."""
    from ray import serve
    from ray.serve.config import AutoscalingConfig, BackpressureConfig
    from ray.serve.schema import LoggingConfig

    from components import cluster
    from components.serving.deployments import FaceFinder, Meter, Model, Page

    def number(replicas: Replicas, target: int) -> dict[str, Any]:
        if replicas.min == replicas.max:  # nothing need be measured
            return {"num_replicas": replicas.max}
        scaling = AutoscalingConfig(
            min_replicas=replicas.min,
            max_replicas=replicas.max,
            target_ongoing_requests=target,
        )
        return {"autoscaling_config": scaling}

    def deployed(
        part: Any, name: str, replicas: Replicas, *, target: int, ongoing: int | None = None
    ) -> Any:
        """Make a deployment that grows when a replica has more than `target` requests."""
        return serve.deployment(
            part,
            name=name,
            # A replica queues itself what it cannot do at once: Serve asks one that is full again
            # and again, more and more seldom, and it idles meanwhile.
            max_ongoing_requests=ongoing or params.max_queued,
            max_queued_requests=params.max_queued,
            backpressure_config=BackpressureConfig(status_code=429, retry_after_s=1),
            **number(replicas, target),
            ray_actor_options={"num_cpus": replicas.cpus, "num_gpus": replicas.gpus},
            health_check_period_s=5,
            # The ingress has one of its own, a line a request.
            logging_config=LoggingConfig(enable_access_log=False),
        )

    finder = deployed(FaceFinder, "finder", params.finder, target=2).bind(
        _absolute(params.detector), params.min_score, params.finder.cpus
    )
    models = {
        name: deployed(Model, f"model-{name}", params.model, target=params.max_batch).bind(
            name,
            functools.partial(_follow, _source(source), params, cluster.Workplace.here()),
            look_every_s=params.look_every_s,
            max_batch=params.max_batch,
            batch_wait_s=params.batch_wait_s,
            cpus=params.model.cpus,
        )
        for name, source in params.models.items()
    }
    meter = deployed(Meter, "meter", Replicas(cpus=0), target=1).bind()
    page = None
    if params.page:
        page = deployed(Page, "page", Replicas(cpus=0), target=1, ongoing=_PAGE_REQUESTS).bind(
            functools.partial(_page, params)
        )
    # Serve takes a function, and nothing else that can be called, for one that makes the API.
    front = serve.ingress(lambda: _front(params, with_page=params.page))(_Ingress)
    ingress = deployed(
        front,
        "ingress",
        params.ingress,
        target=max(1, params.max_queued // 2),
        ongoing=params.max_queued * len(models),
    )
    application: Application = ingress.bind(finder, models, meter, page)
    return application


class _Ingress:
    """Holds the other deployments, so that they are deployed with it."""

    def __init__(self, finder: Any, models: Any, meter: Any, page: Any) -> None:
        del finder, models, meter, page


def _page(params: ServeParams) -> "FastAPI":
    """Make the page, in its own process, with an endpoint of its own to ask."""
    from components.serving import page

    return page.build(
        page.Server(
            _front(params, with_page=False),
            list(params.models),
            finds_faces=params.detector is not None,
            measures_angles=params.identity_network is not None,
            upload_bytes=_upload_bytes(params),
        )
    )


def _upload_bytes(params: ServeParams) -> int:
    return int(params.max_upload_mb * 1e6)


def _front(params: ServeParams, *, with_page: bool) -> "FastAPI":
    """Make the HTTP side, in its own process."""
    from ray.serve import get_deployment_handle

    from components import cluster, logs
    from components.serving import api
    from components.serving.deployments import ServeParts, through
    from components.serving.keys import Keys

    logs.configure()
    cluster.limit_threads(params.ingress.cpus)
    parts = ServeParts(
        get_deployment_handle("finder"),
        {name: get_deployment_handle(f"model-{name}") for name in params.models},
        get_deployment_handle("meter"),
        max_batch=params.max_batch,
    )
    limits = api.Limits(
        upload_bytes=_upload_bytes(params),
        pixels=params.max_pixels,
        faces=params.max_faces,
        timeout_s=params.timeout_s,
        waiting=params.max_queued,
    )
    keys = None if params.keys is None else Keys(params.keys)
    return api.build(
        parts,
        limits=limits,
        keys=keys,
        threads=max(1, int(params.ingress.cpus)),
        page=through(get_deployment_handle("page")) if with_page else None,
    )


def _follow(source: str, params: ServeParams, place: "Workplace") -> "FollowingModel":
    """Begin to follow a model's source, in a replica's process."""
    place.enter()
    from components.metrics.identity import IdentityAngle
    from components.photographs.face_restorer import FaceRestorer
    from components.serving.model import FollowingModel

    device = "cuda" if params.model.gpus else "cpu"
    network = params.identity_network

    def load(version: "Version") -> FaceRestorer:
        folder = _fetched(source, version)
        return FaceRestorer.load(folder, device=device, batch_size=params.max_batch)

    return FollowingModel(
        locate=functools.partial(_newest, source),
        load=load,
        min_psnr=params.self_test_psnr,
        angle=None if network is None else IdentityAngle(network),
    )


def _newest(source: str) -> "Version":
    """Ask which version a source means now. Raises: ValueError, OSError."""
    from components.serving.model import Version
    from components.tracking import registry
    from components.weights.store import open_model

    if source.startswith(_REGISTERED):
        model, version = registry.find(source)
        fingerprint = version.tags.get(registry.FINGERPRINT_TAG, "")
        return Version(f"{model.name}/{version.version}", fingerprint, version.run_id)
    if not Path(source).is_dir():
        raise FileNotFoundError(
            f"{source!r} is no trained folder: train one, or name models:/NAME@ALIAS"
        )
    return Version(Path(source).name, open_model(Path(source)).fingerprint)


def _fetched(source: str, version: "Version") -> Path:
    """Give a version's folder, brought here if need be."""
    from components.tracking import registry

    if not source.startswith(_REGISTERED):
        return Path(source)
    model, found = registry.find(version.name)
    return model.fetch(found)


def run(params: ServeParams, *, host: str, port: int) -> None:
    """Serve until Ctrl-C, on this machine's own Ray or the one that RAY_ADDRESS names.

    Raises: ValueError if others than this machine could reach it without a key, or the port is
        taken.
    """
    from ray import serve
    from ray.serve.config import HTTPOptions

    from components import cluster
    from components.params import Compute

    if params.keys is None and not reaches_only_here(host):
        raise ValueError(
            f"{host} can be reached from other machines, and serve.keys names no file of API keys: "
            "make one with 'hdrface keys add NAME', or serve on 127.0.0.1"
        )
    if not cluster.on_cluster():
        _check_free(host, port)
        # Serve kills a proxy that takes longer to start than 5 s, which on a busy machine it does.
        os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "60")
    with cluster.session(Compute(cpus=params.model.cpus)):
        serve.start(http_options=HTTPOptions(host=host, port=port))
        try:
            serve.run(build(params), name=APP, blocking=True)
        finally:
            serve.delete(APP)  # lets requests in flight end; on a cluster it would go on


def _check_free(host: str, port: int) -> None:
    """Raise ValueError if nobody can listen there: two Serves would share a port by chance."""
    try:
        family = socket.getaddrinfo(host, port)[0][0]
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        why = str(error.strerror).partition(" (")[0]
        raise ValueError(
            f"port {port} of {host} cannot be used ({why}): name another one with --port"
        ) from error


def reaches_only_here(host: str) -> bool:
    """Say whether only this machine reaches an address."""
    from components.serving.api import is_loopback

    try:
        found = socket.getaddrinfo(host, None)
    except OSError:
        return False
    return all(is_loopback(str(address[4][0])) for address in found)


def _source(source: str) -> str:
    """Give a folder absolutely: replicas work elsewhere."""
    return source if source.startswith(_REGISTERED) else str(Path(source).absolute())


def _absolute(file: Path | None) -> Path | None:
    return None if file is None else file.absolute()
