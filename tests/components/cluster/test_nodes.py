import pytest

from components.cluster import nodes


def node(address: str, folder: str) -> dict[str, str]:
    """Give what of `ray.nodes` says where a node lies."""
    raylet = f"{folder}/session_2026-01-31_09-00-00_000000_1/sockets/raylet"
    return {"NodeManagerAddress": address, "RayletSocketName": raylet}


def test_two_nodes_of_one_machine_need_folders_of_their_own() -> None:
    apart = [node("192.0.2.1", "/tmp/ray"), node("192.0.2.2", "/tmp/ray")]
    nodes.check_apart([*apart, node("192.0.2.1", "/tmp/ray2")])
    with pytest.raises(ValueError, match=r"2 nodes of 192\.0\.2\.1 share the folder /tmp/ray: "):
        nodes.check_apart([*apart, node("192.0.2.1", "/tmp/ray")])
