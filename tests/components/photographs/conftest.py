from pathlib import Path

import pytest

from components.photographs.face_restorer import FaceRestorer
from components.restorers.folder import load_restorer
from tests.small_networks import trained


@pytest.fixture(scope="session")
def small_restorer(tmp_path_factory: pytest.TempPathFactory, networks: Path) -> FaceRestorer:
    """Load an untrained restorer on Stable Diffusion under the condition `sdfm`, 32 x 32."""
    folder = trained(tmp_path_factory.mktemp("models"), networks, "sd21", "sdfm")
    return FaceRestorer(load_restorer(folder))
