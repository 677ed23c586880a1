import os
import subprocess
import sys

import pytest

from components import cluster, lineage
from components.cluster import capacity
from components.params import Compute


@pytest.mark.ray
def test_a_session_inside_another_one_uses_it_and_leaves_it_running(ray_session):
    import ray

    with cluster.session(Compute(workers=None)):
        assert ray.get_runtime_context().gcs_address == ray_session
    assert ray.is_initialized()


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_the_capacity_is_what_cpus_and_gpus_carry():
    assert capacity.total(Compute(cpus=1)) == 2
    assert capacity.total(Compute(cpus=0.5)) == 4
    assert capacity.total(Compute(cpus=1.5)) == 1
    assert capacity.total(Compute(cpus=4)) == 0


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_worker_that_this_machine_cannot_carry_is_an_error():
    with pytest.raises(
        ValueError, match=r"needs 3 CPUs; this machine has no node with that .at most 2 CPUs"
    ):
        capacity.wait(Compute(cpus=3))


@pytest.mark.ray
def test_a_stage_joins_the_cluster_of_its_environment_without_a_word(ray_session, tmp_path):
    code = (
        "import ray\n"
        "from components.params import Compute\n"
        "from components import cluster\n"
        "with cluster.session(Compute()):\n"
        "    print(ray.get_runtime_context().gcs_address)\n"
        "assert not ray.is_initialized()\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "components.cluster", sys.executable, "-c", code],
        env=os.environ | {"RAY_ADDRESS": ray_session, "PYTHONPATH": str(lineage.ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, f"{ray_session}\n", "")


def test_threads_are_limited_for_what_is_imported_later():
    code = (
        "from components import cluster\n"
        "cluster.limit_threads(1.5)\n"
        "import cv2, torch\n"
        "print(torch.get_num_threads(), cv2.getNumThreads())\n"
        "cluster.limit_threads(2)\n"
        "print(torch.get_num_threads(), cv2.getNumThreads())\n"
    )
    environment = {name: value for name, value in os.environ.items() if "THREADS" not in name}

    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment | {"PYTHONPATH": str(lineage.ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout == "1 1\n2 2\n"
