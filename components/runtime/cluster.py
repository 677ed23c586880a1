"""Ray: join the cluster that `RAY_ADDRESS` names, or start one on this machine.

A start costs seconds and every stage pays it, unless they share one:

    python -m components.runtime.cluster dvc repro
"""

import contextlib
import logging
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence

from components.params import Compute
from components.runtime.lineage import ROOT

_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is reported anywhere
    # Without it, a warning for every worker that asks for no GPU.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Ray logs "constructor arguments in the object store" as an error for each pool of actors that
    # may be restarted. Errors of the workers arrive as exceptions; `info` brings all of it back.
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENCV_FOR_THREADS_NUM")


@contextlib.contextmanager
def session(compute: Compute, *, show_worker_output: bool = False) -> Iterator[None]:
    """Have Ray inside the block; on leaving it, shut down only what was started here.

    A session inside another one uses it. `show_worker_output` repeats on this process's stderr what
    workers print; it stays in Ray's log files otherwise.

    Raises: ValueError if a worker needs more than this machine has (a cluster may still grow).
    """
    import ray

    if ray.is_initialized():
        yield
    elif address := os.environ.get("RAY_ADDRESS"):
        _set_environment()
        with _without_banner():
            ray.init(address, logging_level=logging.WARNING, log_to_driver=show_worker_output)
        try:
            yield
        finally:
            ray.shutdown()
    else:
        with local(show_worker_output=show_worker_output):
            _check_fits(compute)
            yield


@contextlib.contextmanager
def local(*, num_cpus: int | None = None, show_worker_output: bool = False) -> Iterator[None]:
    """Start Ray on this machine, with all of its CPUs or `num_cpus`, for the time of the block."""
    import ray

    _set_environment()
    # That the cluster asks for a token, as Ray's local ones do, is no reason to warn.
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    # Workers import `components` and `pipelines` wherever the command was started.
    paths = [str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    with _without_banner():
        ray.init(
            address="local",  # without it, Ray would join any cluster that runs on this machine
            num_cpus=num_cpus,
            include_dashboard=False,
            logging_level=logging.WARNING,
            log_to_driver=show_worker_output,
        )
    try:
        yield
    finally:
        ray.shutdown()


def _set_environment() -> None:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


@contextlib.contextmanager
def _without_banner() -> Iterator[None]:
    """Hold back what is written to stderr in the block, but for a line of Ray's C++ part.

    It announces its log level there, before it has one.
    """
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as held_back:
        os.dup2(held_back.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
            held_back.seek(0)
            lines = [line for line in held_back if b"Set ray log level from" not in line]
            os.write(2, b"".join(lines))


def _check_fits(compute: Compute) -> None:
    if capacity(compute) < 1:
        has = _resources()
        raise ValueError(
            f"a worker needs {compute.cpus:g} CPUs and {compute.gpus:g} GPUs, this machine has "
            f"{has.get('CPU', 0):g} and {has.get('GPU', 0):g}: change the stage's section in "
            "'compute:', or set RAY_ADDRESS"
        )


def capacity(compute: Compute) -> int:
    """Count the workers that the cluster can run at once, as it is now."""
    has = _resources()
    fits = [has.get("CPU", 0.0) / compute.cpus]
    if compute.gpus:
        fits.append(has.get("GPU", 0.0) / compute.gpus)
    return math.floor(min(fits))


def _resources() -> dict[str, float]:
    import ray

    return dict(ray.cluster_resources())  # type: ignore[no-untyped-call]


def limit_threads(cpus: float) -> None:
    """Use one thread a CPU asked for, in this process.

    Sums of floating-point numbers depend on how many threads share them: with a thread for every
    core of the machine, the same worker would give other bits on another machine.
    """
    count = max(1, int(cpus))
    for name in _THREADS:  # for what is imported from here on
        os.environ[name] = str(count)
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(count)
    if "cv2" in sys.modules:
        import cv2

        cv2.setNumThreads(count)


def run_inside(command: Sequence[str]) -> int:
    """Run a command whose processes share one Ray, and return its exit status."""
    import ray

    if "RAY_ADDRESS" in os.environ:
        return subprocess.run(command, check=False).returncode
    with local():
        address = ray.get_runtime_context().gcs_address
        # Ctrl-C reaches the command too, which ends in its own way; Ray has to stay until then.
        signal.signal(signal.SIGINT, lambda *_: None)
        return subprocess.run(
            command, env=os.environ | {"RAY_ADDRESS": address}, check=False
        ).returncode


if __name__ == "__main__":
    sys.exit(run_inside(sys.argv[1:]))
