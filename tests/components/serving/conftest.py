"""A small model behind the endpoint's parts."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from components.photographs.face_restorer import FaceRestorer
from components.restorers.folder import load_restorer
from components.serving.model import FollowingModel, Version
from tests.components.serving.here import MIN_PSNR, HereParts, asking
from tests.small_networks import trained


@pytest.fixture(scope="session")
def restorer(tmp_path_factory: pytest.TempPathFactory, networks: Path) -> FaceRestorer:
    folder = trained(tmp_path_factory.mktemp("served"), networks, "sd21", "sdfm")
    return FaceRestorer(load_restorer(folder))


@pytest.fixture
def parts(restorer: FaceRestorer) -> HereParts:
    version = Version("small", "id", "run")
    model = FollowingModel(lambda: version, lambda _: restorer, MIN_PSNR)
    model.follow()
    return HereParts(model)


@pytest.fixture
def client(parts: HereParts) -> Iterator[TestClient]:
    with asking(parts) as client:
        yield client
