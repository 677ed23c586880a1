"""The one Ray cluster of a test run: two CPUs on this machine."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def ray_session() -> Iterator[str]:
    """Start Ray once for the whole run, and return its address for processes that join it."""
    import ray

    from components import cluster

    with cluster.local(num_cpus=2):
        yield ray.get_runtime_context().gcs_address
