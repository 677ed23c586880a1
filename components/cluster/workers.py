"""Work on other nodes: a worker's folder, settings and threads, and items shared among workers."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from components.cluster import capacity
from components.cluster.sessions import on_cluster, session
from components.params import Compute
from components.storage import data_root, s3_settings

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENCV_FOR_THREADS_NUM")
_STARTS_AGAIN = 3  # when a worker or its node is lost

Item = TypeVar("Item")
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


def map_on_workers(
    compute: Compute,
    items: Sequence[Item],
    start: Callable[..., Callable[[Item], T]],
    *arguments: Any,
) -> Iterator[T]:
    """Call what `start(*arguments)` returns with each item; give the results in the same order.

    `start`, of an importable module, loads what every call needs: once in this process, or on a
    cluster, or where workers have GPUs, once on each of as many workers as can start now, at most
    `compute.workers`. A lost worker starts again. What is raised there is raised here.

    Raises: as `session`.
    """
    if not on_cluster() and not compute.gpus:
        yield from map(start(*arguments), items)
        return
    import ray
    from ray.util import ActorPool

    with session(compute):
        count = capacity.free(compute, min(len(items), compute.workers or len(items)))
        makers: Any = ray.remote(max_restarts=_STARTS_AGAIN, max_task_retries=_STARTS_AGAIN)(_Maker)
        makers = makers.options(**capacity.options(compute))
        here = ray.put((Workplace.here(), compute.cpus, start, arguments))
        pool: Any = ActorPool([makers.remote([here]) for _ in range(max(1, count))])
        try:
            yield from pool.map(lambda maker, item: maker.make.remote(item), items)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error


class _Maker:
    """A worker that starts with its first item, for Ray hides why an actor cannot."""

    def __init__(self, what: Sequence[Any]) -> None:
        self._what = what
        self._make: Callable[[Any], Any] | None = None

    def make(self, item: Any) -> Any:
        if self._make is None:
            import ray

            place, cpus, start, arguments = ray.get(self._what[0])
            place.enter()
            limit_threads(cpus)
            self._make = start(*arguments)
        return self._make(item)


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
