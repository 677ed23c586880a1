"""What a cluster's autoscaler says: the only file that uses names which Ray keeps to itself.

Ray has no public call for what an autoscaler can add, or what it has given up on
(https://github.com/ray-project/ray/issues/37838): `ray status` and the state API list what is asked
for, without saying that no kind of node can ever hold it. Without this, such a training would wait
for ever. If a later Ray renames something here, the product starts no worse than that: it waits,
and says what for.
"""

import functools
import logging
from collections.abc import Collection

log = logging.getLogger(__name__)


def is_there() -> bool:
    """Say whether something may add nodes to the cluster."""
    from ray.autoscaler.v2.utils import is_autoscaler_v2

    return bool(is_autoscaler_v2(fetch_from_server=True))


def refuses(groups: Collection[str]) -> bool:
    """Say whether the autoscaler can never make room for one of these placement groups."""
    import ray

    try:
        from ray._raylet import GcsClient  # type: ignore[attr-defined]
        from ray.core.generated import autoscaler_pb2

        client = GcsClient(ray.get_runtime_context().gcs_address)
        status = autoscaler_pb2.GetClusterStatusReply()  # type: ignore[attr-defined]
        status.ParseFromString(client.get_cluster_status())
        hopeless = status.autoscaling_state.infeasible_gang_resource_requests
        return any(group in request.details for request in hopeless for group in groups)
    except (ImportError, AttributeError) as error:
        _warn(f"this Ray does not say what its autoscaler cannot add: {error}")
        return False


@functools.cache  # once: whoever waits asks every second
def _warn(message: str) -> None:
    log.warning(message)
