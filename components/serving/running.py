"""Run the endpoint until Ctrl-C."""

import logging
import os
import socket
import threading
from collections.abc import Iterable

from ray import serve
from ray.serve.config import HTTPOptions

from components import cluster
from components.params import Compute
from components.serving.addresses import is_any, is_local
from components.serving.application import build
from components.serving.model import ModelState
from components.serving.params import ServeParams

log = logging.getLogger(__name__)

APP = "hdrface"
_ANSWERS_WITHIN_S = 60.0


def run(params: ServeParams, *, host: str, port: int) -> None:
    """Serve until Ctrl-C, on a local Ray or on the cluster that RAY_ADDRESS names.

    Raises: ValueError if other machines could send requests without a key, or no name is known
    that they reach this one by, or the port is in use.
    """
    if params.keys is None and not is_local(host):
        raise ValueError(
            f"{host} can be reached from other machines, and serve.keys names no file of API keys: "
            "make one with 'hdrface keys add NAME', or serve on 127.0.0.1"
        )
    if is_any(host) and not params.hosts:
        raise ValueError(
            f"{host} is no name that clients reach this machine by: list these in serve.hosts, "
            "as 'hosts=[restore.example.org]'"
        )
    if not is_any(host):
        params = params.model_copy(update={"hosts": (*params.hosts, host)})
    if not cluster.on_cluster():
        _check_free(host, port)
        # Serve kills a proxy that needs more than 5 s to start; on a busy machine it does.
        os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "60")
    with cluster.session(Compute(cpus=params.model.cpus)):
        serve.start(http_options=HTTPOptions(host=host, port=port))
        try:
            serve.run(build(params, cluster.Workplace.here()), name=APP)
            _tell_of(params.models)
            threading.Event().wait()  # until Ctrl-C
        finally:
            serve.delete(APP)  # finishes requests in flight; on a cluster it would run on


def _tell_of(names: Iterable[str]) -> None:
    """Log what each model restores with, or why it cannot: Serve calls it ready in both cases."""
    for name in names:
        model = serve.get_deployment_handle(f"model-{name}", APP)
        try:
            state: ModelState = model.state.remote().result(timeout_s=_ANSWERS_WITHIN_S)
        except TimeoutError:
            log.warning("model %s has not said what it restores with: it is busy", name)
            continue
        if state.version is None:
            log.warning("model %s restores nothing yet: %s", name, state.problem)
        else:
            log.info("model %s: %s, faces of %d pixels", name, state.version.name, state.size)


def _check_free(host: str, port: int) -> None:
    """Raise ValueError if the port is in use: two Serves would share it and mix their answers."""
    try:
        family = socket.getaddrinfo(host, port)[0][0]
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        why = str(error.strerror).partition(" (")[0]
        raise ValueError(
            f"port {port} of {host} cannot be used ({why}): choose another one with --port"
        ) from error
