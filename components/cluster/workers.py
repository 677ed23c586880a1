"""Work on other nodes: a worker's folder, settings and threads, and calls of one function there."""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from components.cluster import capacity
from components.cluster.sessions import on_cluster, session
from components.params import Compute
from components.storage import data_root, s3_settings

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENCV_FOR_THREADS_NUM")
_CALLS_AGAIN = 3  # when a node is lost

T = TypeVar("T")


@dataclass(frozen=True)
class Workplace:
    """What a worker takes over from the driver: how it reaches S3, and its folder.

    Not the folder where there is a data root: other machines have none of that name. The settings
    lie in Ray's object store: in an argument, Ray might write them to a log.
    """

    folder: Path | None
    settings: Sequence[Any]  # one reference or none; bare, Ray would put the value in its place

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
        for settings in self.settings:
            os.environ.update(ray.get(settings))


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
            result: T = ray.get(called.options(**capacity.options(compute)).remote())
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
