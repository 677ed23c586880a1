"""What every test may rely on: a quiet, local environment, and the pictures beside the checkout."""

import os
from pathlib import Path

import pytest

# One of each for the whole run.
pytest_plugins = [
    "tests.browser",
    "tests.hashed_files",
    "tests.ray_session",
    "tests.small_networks",
    "tests.mlflow_database",
]

REPOSITORY = Path(__file__).parents[1]

# A test must not reach a developer's cluster, tracking server, bucket or model store.
for _setting in (
    *("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "MLFLOW_TRACKING_URI"),
    *("HDRFACE_ROOT", "HDRFACE_STORE"),
):
    os.environ.pop(_setting, None)
os.environ.update(
    {
        # Threads that wait for each other in turns with another test's take ten times as long.
        "OMP_NUM_THREADS": "1",
        "DVC_NO_ANALYTICS": "1",
        "HF_HUB_OFFLINE": "1",
        "MLFLOW_DISABLE_TELEMETRY": "1",
        # A call that comes after its Ray has ended must not start another one.
        "RAY_ENABLE_AUTO_CONNECT": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "TRANSFORMERS_VERBOSITY": "error",
    }
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what is slow: at the end, one worker would be at it while the others idle."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="session")
def repository() -> Path:
    """Return the folder of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Return the folder of photographs and small networks beside the checkout, or skip."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"needs photographs and networks in {folder}")
    return folder
