"""A cluster that grows: what its autoscaler can add is waited for, what it cannot is refused.

The autoscaler is Ray's own, with the provider of Ray's tests: a node is a few processes more.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID

from tests.cluster.ray_nodes import Nodes, ray_nodes

pytestmark = [pytest.mark.cluster]
_SETTINGS = {
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    "RAY_FAKE_CLUSTER": "1",
    "RAY_enable_autoscaler_v2": "1",
    "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
}
_LISTS = (
    *("setup_commands", "head_setup_commands", "worker_setup_commands", "initialization_commands"),
    *("head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files"),
)
_CLUSTER = {
    "cluster_name": "growing",
    "max_workers": 1,
    "idle_timeout_minutes": 60,
    "provider": {
        "type": "external",  # the package lacks a file that `fake_multinode` reads
        "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "use_node_id_as_ip": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
        "launch_multiple": True,
        "head_node_id": FAKE_HEAD_NODE_ID,
    },
    "auth": {},
    "file_mounts": {},
    "file_mounts_sync_continuously": False,
    **{key: [] for key in _LISTS},  # the launcher fills them in
    "head_node_type": "ray.head.default",
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "cpu": {"resources": {"CPU": 2}, "node_config": {}, "min_workers": 0, "max_workers": 1},
    },
}
_STAGE = """
import json, logging, sys
from components.params import Compute
from components import cluster
logging.basicConfig(level=logging.INFO, format="%(message)s")
with cluster.session(Compute(**json.loads(sys.argv[1]))):
    pass
"""


@pytest.fixture(scope="module")
def growing() -> Iterator[Nodes]:
    """A head for no work, whose autoscaler knows one kind of node, of two CPUs."""
    with ray_nodes(os.environ, []) as nodes:
        file = nodes.folder / "autoscaler.json"
        file.write_text(json.dumps(_CLUSTER))
        nodes.start_head(_SETTINGS, cpus=0, autoscaler=file)
        yield nodes


def stage(nodes: Nodes, repository: Path, **compute: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _STAGE, json.dumps(compute)],
        env={
            **nodes.environment,
            "PYTHONPATH": str(repository),
            "RAY_ADDRESS": f"127.0.0.1:{nodes.gcs_port}",
        },
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("compute", "needs"),
    [({"cpus": 1, "gpus": 1}, "1 CPUs, 1 GPUs"), ({"cpus": 3}, "3 CPUs")],
)
def test_what_no_node_of_the_autoscaler_has_is_refused_within_seconds(
    growing: Nodes, repository: Path, compute: dict[str, float], needs: str
) -> None:
    started = time.monotonic()
    with stage(growing, repository, **compute) as refused:
        _, said = refused.communicate(timeout=120)
    assert refused.returncode == 1
    assert time.monotonic() - started < 30  # of which half is the start of a process
    last = said.strip().splitlines()[-1]
    assert f"a worker needs {needs}; this cluster has no node with that" in last
    assert "its autoscaler can add none" in last


def test_what_the_autoscaler_can_add_is_waited_for_and_told_of(
    growing: Nodes, repository: Path
) -> None:
    with stage(growing, repository, cpus=2) as waiting:
        assert waiting.stderr is not None
        said = next(line for line in waiting.stderr if "waiting" in line or "Error" in line)
        waiting.kill()
    assert "waiting for 2 CPUs: no node has that, the autoscaler is asked for one" in said
