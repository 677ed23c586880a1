"""Room for workers: what a cluster has, and what its autoscaler may add.

A worker that no node can ever hold is refused at once; one that an autoscaler can make room for is
waited for, and the log says what is missing.
"""

import logging
import math
import os
import time
from collections.abc import Mapping
from typing import Any

from components.params import Compute

_FIRST_WORD_AFTER_S = 5.0
_NEXT_WORD_AFTER_S = 60.0
_LOOK_EVERY_S = 1.0
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


def free(compute: Compute) -> int:
    """Count the workers that could start beside all that runs there now."""
    from ray._private.state import available_resources_per_node

    nodes = available_resources_per_node()  # type: ignore[no-untyped-call]
    return sum(_fits(resources, compute) for resources in nodes.values())


def wait(compute: Compute) -> None:
    """Return when a worker could start.

    Raises: ValueError, within seconds, if neither a node nor the autoscaler can hold a worker.
    """
    import ray

    if free(compute):
        return
    if not total(compute) and not has_autoscaler():
        raise ValueError(_refusal(compute))
    probe = ray.remote(max_retries=0)(_nothing).options(**options(compute)).remote()
    started = time.monotonic()
    next_word = _FIRST_WORD_AFTER_S
    while not ray.wait([probe], timeout=_LOOK_EVERY_S)[0]:
        if not total(compute) and _is_infeasible(compute):
            ray.cancel(probe)
            raise ValueError(_refusal(compute))
        if (waited := time.monotonic() - started) > next_word:
            next_word = waited + _NEXT_WORD_AFTER_S
            log.info("waiting for %s: %s", shown(needs(compute)), _about_cluster(compute))


def has_autoscaler() -> bool:
    """Say whether something may add nodes to the cluster."""
    from ray.autoscaler.v2.utils import is_autoscaler_v2

    return bool(is_autoscaler_v2(fetch_from_server=True))


def _nothing() -> None:
    pass


def _alive() -> list[dict[str, Any]]:
    import ray

    return [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def _fits(resources: Mapping[str, float], compute: Compute) -> int:
    return math.floor(
        min(resources.get(kind, 0.0) / amount for kind, amount in needs(compute).items())
    )


def _is_infeasible(compute: Compute) -> bool:
    """Ask the autoscaler whether it has given up on the request of a worker."""
    import ray
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.core.generated import autoscaler_pb2

    client = GcsClient(ray.get_runtime_context().gcs_address)
    status = autoscaler_pb2.GetClusterStatusReply()  # type: ignore[attr-defined]
    status.ParseFromString(client.get_cluster_status())
    wanted = needs(compute)
    return any(
        dict(request.resources_bundle) == wanted
        for request in status.autoscaling_state.infeasible_resource_requests
    )


def _refusal(compute: Compute) -> str:
    where = "this cluster has" if "RAY_ADDRESS" in os.environ else "this machine has"
    largest = {
        kind: max((node["Resources"].get(kind, 0.0) for node in _alive()), default=0.0)
        for kind in ("CPU", "GPU", "memory")
    }
    more = " and its autoscaler can add none" if has_autoscaler() else ""
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
