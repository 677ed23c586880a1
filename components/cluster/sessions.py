"""Ray: join the cluster that `RAY_ADDRESS` names, or start one on this machine.

A start costs seconds and every stage pays it, unless they share one:

    python -m components.cluster dvc repro
"""

import contextlib
import logging
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any

from components import experiments
from components.cluster import capacity, nodes, token
from components.lineage import ROOT
from components.params import Compute

_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is reported anywhere
    # Without it, a warning for every worker that asks for no GPU.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
# Where `local` started Ray, whose workers find `components` and `pipelines` by PYTHONPATH.
_IMPORTS_OURS = "HDRFACE_WORKERS_IMPORT"


@contextlib.contextmanager
def session(compute: Compute, *, show_worker_output: bool = False) -> Iterator[None]:
    """Have Ray inside the block; on leaving it, shut down only what was started here.

    A session inside another one uses it. On a cluster, waits until there is room for a worker, and
    says so. On this machine alone, the experiments of DVC's queue take turns. `show_worker_output`
    repeats on this process's stderr what workers print; it stays in Ray's log files otherwise.

    Raises: ValueError if a worker needs more than there is and can be, or a node has not what its
    workers need.
    """
    import ray

    if ray.is_initialized():
        yield
    elif not on_cluster():
        # Ray has all of this machine's CPUs: two experiments would wait for each other's workers.
        with experiments.turn(), _opened(compute, show_worker_output=show_worker_output):
            yield
    else:
        with _opened(compute, show_worker_output=show_worker_output):
            yield


@contextlib.contextmanager
def _opened(compute: Compute, *, show_worker_output: bool) -> Iterator[None]:
    import ray

    if address := os.environ.get("RAY_ADDRESS"):
        _set_environment()
        ray.init(
            address,
            logging_level=logging.WARNING,
            log_to_driver=show_worker_output,
            runtime_env=_code(),
            namespace="hdrface",
        )
        try:
            nodes.check()
            capacity.wait(compute)
            yield
        finally:
            ray.shutdown()
    else:
        with local(show_worker_output=show_worker_output):
            capacity.wait(compute)
            yield


def on_cluster() -> bool:
    """Say whether Ray is somebody's cluster, which may grow, and not this machine's own."""
    return "RAY_ADDRESS" in os.environ and _IMPORTS_OURS not in os.environ


def _code() -> dict[str, Any] | None:
    """Say how workers get `components` and `pipelines`: from the job, or from this checkout."""
    # An experiment of DVC's queue has a checkout of its own.
    if nodes.comes_with_job() or os.environ.get(_IMPORTS_OURS) == str(ROOT):
        return None
    return {"py_modules": [str(ROOT / "components"), str(ROOT / "pipelines")]}


@contextlib.contextmanager
def local(*, num_cpus: int | None = None, show_worker_output: bool = False) -> Iterator[None]:
    """Start Ray on this machine, with all of its CPUs or `num_cpus`, for the time of the block."""
    import ray

    _set_environment()
    token.keep_secret()
    # Workers import `components` and `pipelines` wherever the command was started.
    paths = [str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    ray.init(
        address="local",  # without it, Ray would join any cluster that runs on this machine
        num_cpus=num_cpus,
        include_dashboard=False,
        # Ray warns that the cluster asks for a token, as all local ones do.
        logging_level=logging.ERROR,
        log_to_driver=show_worker_output,
    )
    logging.getLogger("ray").setLevel(logging.WARNING)
    try:
        yield
    finally:
        ray.shutdown()


def _set_environment() -> None:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def run_inside(command: Sequence[str]) -> int:
    """Run a command whose processes share one Ray, and return its exit status."""
    import ray

    if "RAY_ADDRESS" in os.environ:
        return subprocess.run(command, check=False).returncode
    with local():
        address = ray.get_runtime_context().gcs_address
        # Ctrl-C reaches the command too, which ends in its own way; Ray has to stay until then.
        signal.signal(signal.SIGINT, lambda *_: None)
        environment = os.environ | {"RAY_ADDRESS": address, _IMPORTS_OURS: str(ROOT)}
        return subprocess.run(command, env=environment, check=False).returncode
