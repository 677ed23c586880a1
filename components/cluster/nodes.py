"""Whether every node of a cluster can work for this process: it sees the data, and runs the same.

A difference would show late and badly: as a missing file in the hundredth shard, or as other last
bits in a part of the rows.
"""

import os
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from components.storage import ROOT_VARIABLE, Storage, data_root, local_folder, s3_settings

# What decides the bytes of pictures, tensors and shards.
_PACKAGES = ("numpy", "opencv-python-headless", "pillow", "pyarrow", "torch", "torchvision")
_PROBES = "probes"
_ANSWER_S = 60.0  # a worker process starts in seconds


def check() -> None:
    """Ask every node but this one.

    Raises: ValueError naming the first node that does not see the data root (or, without one, this
    folder), whose packages differ, or that would unpack a job's files over those of another node.
    """
    import ray

    here = ray.get_runtime_context().get_node_id()
    alive = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    if comes_with_job():
        check_apart(alive)
    others = [node for node in alive if node["NodeID"] != here]
    if not others:
        return
    root = data_root()
    probes = local_folder(Path.cwd(), Path.cwd()) if root is None else root / _PROBES
    name = f".probe-{uuid.uuid4().hex}"
    probes.write(name, b"seen")
    try:
        answers = _ask(others, probes, name)
    finally:
        probes.delete(name)
    for node, answer in zip(others, answers, strict=True):
        _check_answer(f"node {node['NodeManagerAddress']}", answer, root)


def comes_with_job() -> bool:
    """Say whether this process is a job of a cluster, whose code Ray brings to every node."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def check_apart(nodes: Sequence[Mapping[str, Any]]) -> None:
    """Look whether two nodes of one machine share Ray's folder.

    The second would unpack a job's files anew in the place where the job is at work.

    Args:
        nodes: as `ray.nodes` gives them.

    Raises: ValueError naming machine and folder.
    """
    places = [
        (node["NodeManagerAddress"], Path(node["RayletSocketName"]).parents[1]) for node in nodes
    ]
    for (address, folder), count in Counter(places).items():
        if count > 1:
            raise ValueError(
                f"{count} nodes of {address} share the folder {folder.parent}: start all but one "
                "with 'ray start --temp-dir=FOLDER' and a folder of its own"
            )


def _ask(nodes: list[dict[str, Any]], probes: Storage, name: str) -> list[dict[str, str]]:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    settings = [ray.put(s3_settings())]  # in a list: not to be seen among the arguments
    look = ray.remote(num_cpus=0, max_retries=0)(_look)
    asked = [
        look.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(probes, name, settings)
        for node in nodes
    ]
    _, waiting = ray.wait(asked, num_returns=len(asked), timeout=_ANSWER_S)
    answers = []
    for node, answer in zip(nodes, asked, strict=True):
        if answer in waiting:
            raise ValueError(
                f"node {node['NodeManagerAddress']} starts no worker within {_ANSWER_S:g} s: see "
                "Ray's dashboard, or remove the node"
            )
        answers.append(ray.get(answer))
    return answers


def _look(probes: Storage, name: str, settings: list[Any]) -> dict[str, str]:
    """On a node: try to read the probe, and name the versions of packages."""
    import ray

    os.environ.update(ray.get(settings[0]))
    try:
        probes.read(name)
    except OSError as error:
        problem = str(error)
    else:
        problem = ""
    return {"problem": problem, **versions()}


def versions() -> dict[str, str]:
    """Return the versions of the packages that results depend on, in this process."""
    return {name: metadata.version(name) for name in _PACKAGES}


def _check_answer(node: str, answer: Mapping[str, str], root: Storage | None) -> None:
    if answer["problem"] and root is None:
        raise ValueError(
            f"{node} does not see {Path.cwd()}: set {ROOT_VARIABLE} to s3://BUCKET/PREFIX, or to a "
            "folder that every node mounts"
        )
    if answer["problem"] and root is not None:
        raise ValueError(
            f"{node} does not see {ROOT_VARIABLE} = {root.url}: mount it there, or give the node "
            f"credentials ({answer['problem']})"
        )
    for package, version in versions().items():
        if answer[package] != version:
            raise ValueError(
                f"{node} has {package} {answer[package]}, here it is {version}: results would "
                "differ; install requirements.lock on every node"
            )
