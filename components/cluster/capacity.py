"""Room for workers: what a cluster has, and what its autoscaler may add.

A worker that no node can ever hold is refused at once; one that an autoscaler can make room for is
waited for, and the log says what is missing.
"""

import logging
import math
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any, Self

from components.cluster import autoscaler
from components.params import Compute

_FIRST_WORD_AFTER_S = 5.0
_NEXT_WORD_AFTER_S = 60.0
_ASK_EVERY_S = 1.0
_LOOK_EVERY_S = 0.05
_PROBE_S = 2.0  # Ray grants what is free in a tenth of it
_GIB = 1 << 30

log = logging.getLogger(__name__)


def needs(compute: Compute) -> dict[str, float]:
    """Return what a worker asks Ray for: CPUs, GPUs, bytes of memory."""
    wanted = {"CPU": compute.cpus, "GPU": compute.gpus, "memory": (compute.memory or 0) * _GIB}
    return {kind: amount for kind, amount in wanted.items() if amount}


def options(compute: Compute) -> dict[str, Any]:
    """Return the same as options of a Ray task or actor."""
    wanted = needs(compute)
    return {
        "num_cpus": compute.cpus,
        "num_gpus": compute.gpus or None,
        "memory": wanted.get("memory"),
    }


def total(compute: Compute) -> int:
    """Count the workers that the cluster can run at once, as it is now."""
    return sum(_fits(node["Resources"], compute) for node in _alive())


class Request:
    """Room for workers that is asked for, and held as it comes, until the block ends.

    It consists of Ray's placement groups, so an autoscaler hears what is missing, and Ray forgets
    it when this process ends.
    """

    def __init__(self, groups: Sequence[Sequence[dict[str, float]]]) -> None:
        self._wanted = groups
        self._groups: list[Any] = []

    def __enter__(self) -> Self:
        import ray.util

        try:
            for bundles in self._wanted:
                self._groups.append(ray.util.placement_group(list(bundles)))
        except BaseException:
            self._forget()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._forget()

    def num_granted(self) -> int:
        """Count the groups that are there."""
        import ray.util

        # One by one: the table of all groups keeps those of the past, too, and grows.
        states = [ray.util.placement_group_table(group)["state"] for group in self._groups]
        return states.count("CREATED")

    def wait(self, timeout_s: float) -> bool:
        """Wait until all groups are there, or so long."""
        end = time.monotonic() + timeout_s
        while not (is_granted := self.num_granted() == len(self._groups)):
            if time.monotonic() >= end:
                break
            time.sleep(_LOOK_EVERY_S)
        return is_granted

    def names(self) -> list[str]:
        """Return Ray's names of the groups."""
        return [group.id.hex() for group in self._groups]

    def _forget(self) -> None:
        import ray.util

        for group in self._groups:
            ray.util.remove_placement_group(group)
        self._groups = []


def together(compute: Compute, count: int) -> Request:
    """Ask for room for so many workers, all at once or not at all."""
    return Request([[needs(compute)] * count])


def singly(compute: Compute, count: int) -> Request:
    """Ask for room for so many workers, one by one."""
    return Request([[needs(compute)]] * count)


def free(compute: Compute, most: int) -> int:
    """Count the workers, up to a number, that could start beside all that runs there now.

    Ray tells of the free resources of all nodes only in sum, which says nothing of a worker that
    needs two CPUs. So room is asked for, for a moment.
    """
    with singly(compute, min(most, total(compute))) as request:
        request.wait(_PROBE_S)
        return request.num_granted()


def wait(compute: Compute) -> None:
    """Return when a worker could start.

    Raises: ValueError, within seconds, if neither a node nor the autoscaler can hold a worker.
    """
    started = time.monotonic()
    next_word = _FIRST_WORD_AFTER_S
    with together(compute, 1) as request:
        while not request.wait(_ASK_EVERY_S):
            if not total(compute) and not _may_come(request):
                raise ValueError(_refusal(compute))
            if (waited := time.monotonic() - started) > next_word:
                next_word = waited + _NEXT_WORD_AFTER_S
                log.info("waiting for %s: %s", shown(needs(compute)), _about_cluster(compute))


def _may_come(request: Request) -> bool:
    return autoscaler.is_there() and not autoscaler.refuses(request.names())


def _alive() -> list[dict[str, Any]]:
    import ray

    return [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def _fits(resources: Mapping[str, float], compute: Compute) -> int:
    return math.floor(
        min(resources.get(kind, 0.0) / amount for kind, amount in needs(compute).items())
    )


def _refusal(compute: Compute) -> str:
    where = "this cluster has" if "RAY_ADDRESS" in os.environ else "this machine has"
    largest = {
        kind: max((node["Resources"].get(kind, 0.0) for node in _alive()), default=0.0)
        for kind in ("CPU", "GPU", "memory")
    }
    more = " and its autoscaler can add none" if autoscaler.is_there() else ""
    return (
        f"a worker needs {shown(needs(compute))}; {where} no node with that{more} (at most "
        f"{shown(largest)} on one): change the stage's section in 'compute:', or set RAY_ADDRESS "
        "to a cluster that has it"
    )


def _about_cluster(compute: Compute) -> str:
    if total(compute):
        return "others use all that the cluster has"
    return "no node has that, the autoscaler is asked for one"


def shown(resources: Mapping[str, float]) -> str:
    """Say it for people, in the unit of each kind."""
    told = {
        "CPU": f"{resources.get('CPU', 0):g} CPUs",
        "GPU": f"{resources.get('GPU', 0):g} GPUs",
        "memory": f"{resources.get('memory', 0) / _GIB:.3g} GiB of memory",
    }
    return ", ".join(told[kind] for kind in resources)
