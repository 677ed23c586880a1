"""Ray: join the cluster that `RAY_ADDRESS` names, or start one on this machine.

A start costs seconds and every stage pays it, unless they share one:

    python -m components.runtime.cluster dvc repro
"""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from components.params import Compute
from components.runtime import nodes, room
from components.runtime.lineage import ROOT
from components.storage import data_root, s3_settings

_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is reported anywhere
    # Without it, a warning for every worker that asks for no GPU.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Ray logs "constructor arguments in the object store" as an error for each pool of actors that
    # may be restarted. Errors of the workers arrive as exceptions; `info` brings all of it back.
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}
# Set where `local` started Ray: its workers find `components` and `pipelines` by PYTHONPATH.
_IMPORTS_OURS = "HDRFACE_WORKERS_IMPORT"
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENCV_FOR_THREADS_NUM")


_CALLS_AGAIN = 3  # when a node is lost

T = TypeVar("T")


@contextlib.contextmanager
def session(compute: Compute, *, show_worker_output: bool = False) -> Iterator[None]:
    """Have Ray inside the block; on leaving it, shut down only what was started here.

    A session inside another one uses it. On a cluster, waits until there is room for a worker, and
    says so. `show_worker_output` repeats on this process's stderr what workers print; it stays in
    Ray's log files otherwise.

    Raises: ValueError if a worker needs more than there is and can be, or a node has not what its
    workers need.
    """
    import ray

    if ray.is_initialized():
        yield
    elif address := os.environ.get("RAY_ADDRESS"):
        _set_environment()
        with _without_banner():
            ray.init(
                address,
                logging_level=logging.WARNING,
                log_to_driver=show_worker_output,
                runtime_env=_code(),
                namespace="hdrface",
            )
        try:
            nodes.check()
            room.wait(compute)
            yield
        finally:
            ray.shutdown()
    else:
        with local(show_worker_output=show_worker_output):
            room.wait(compute)
            yield


def on_cluster() -> bool:
    """Say whether Ray is somebody's cluster, which may grow, and not this machine's own."""
    return "RAY_ADDRESS" in os.environ and _IMPORTS_OURS not in os.environ


def _code() -> dict[str, Any] | None:
    """Say how workers get `components` and `pipelines`: from the job, or from this checkout."""
    if nodes.comes_with_job() or _IMPORTS_OURS in os.environ:
        return None
    return {"py_modules": [str(ROOT / "components"), str(ROOT / "pipelines")]}


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


@dataclass(frozen=True)
class Workplace:
    """What a worker takes over from the driver: how it reaches S3, and its folder.

    Not the folder where there is a data root: other machines have none of that name. The settings
    lie in Ray's object store: in an argument, Ray might write them to a log.
    """

    folder: Path | None
    settings: Sequence[Any]  # of one reference; bare, Ray would put the value in its place

    @classmethod
    def here(cls) -> Self:
        """Describe the driver's."""
        import ray

        folder = Path.cwd() if data_root() is None else None
        return cls(folder, [ray.put(s3_settings())])

    def enter(self) -> None:
        """Make this process a worker there."""
        import ray

        if self.folder is not None:
            os.chdir(self.folder)  # relative paths mean the same here and in the stage
        os.environ.update(ray.get(self.settings[0]))


def call(compute: Compute, function: Callable[..., T], *arguments: Any) -> T:
    """Call a function of an importable module: on a node of the cluster, or else in this process.

    What it raises is raised here. Raises: as `session`.
    """
    if not on_cluster():
        return function(*arguments)
    import ray

    with session(compute):
        place, cpus = Workplace.here(), compute.cpus

        def enter_and_call() -> T:
            place.enter()
            limit_threads(cpus)
            return function(*arguments)

        called = ray.remote(max_retries=_CALLS_AGAIN)(enter_and_call)
        try:
            result: T = ray.get(called.options(**room.options(compute)).remote())
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
        return result


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
        environment = os.environ | {"RAY_ADDRESS": address, _IMPORTS_OURS: "1"}
        return subprocess.run(command, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(run_inside(sys.argv[1:]))
