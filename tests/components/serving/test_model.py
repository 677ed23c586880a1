"""A model that follows its source: which versions it uses, keeps and refuses."""

import time
from pathlib import Path

import numpy as np
import pytest
import torch

from components import images
from components.photographs.face_restorer import FaceRestorer
from components.restorers.folder import load_restorer
from components.serving import self_test
from components.serving.model import FacesAnswer, FacesRequest, FollowingModel, Version
from components.serving.refusal import Refused
from tests.small_networks import SIZE, trained

MIN_PSNR = 9.0  # dB: these networks are untrained


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, networks: Path) -> Path:
    return trained(tmp_path_factory.mktemp("served"), networks, "qwen", "text")


class Source:
    """A registry's alias: the version that it points to, and whether the server answers."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.number, self.is_away = folder, 1, False
        self.loads: list[str] = []

    def locate(self) -> Version:
        if self.is_away:
            raise ConnectionError("the tracking server does not answer")
        return Version(f"hdrface/{self.number}", f"fingerprint-{self.number}")

    def load(self, version: Version) -> FaceRestorer:
        self.loads.append(version.name)
        restorer = load_restorer(self.folder)
        if version.name == "hdrface/2":  # cut short, say
            with torch.no_grad():
                for parameter in restorer.backbone.parameters():
                    parameter.fill_(float("nan"))
        return FaceRestorer(restorer)


@pytest.fixture
def source(folder: Path) -> Source:
    return Source(folder)


@pytest.fixture
def model(source: Source) -> FollowingModel:
    return FollowingModel(source.locate, source.load, MIN_PSNR)


def faces(count: int, seed: int = 0) -> list[images.Image]:
    drawn = np.random.default_rng(seed)
    return list(drawn.integers(256, size=(count, SIZE, SIZE, 3), dtype=np.uint8))


def restored_by(model: FollowingModel) -> str:
    [answer] = model.restore([FacesRequest(faces(1))])
    assert isinstance(answer, FacesAnswer)
    return answer.version.name


def test_without_a_version_the_model_says_why_and_loads_one_later(
    model: FollowingModel, source: Source
) -> None:
    source.is_away = True
    model.follow()
    [answer] = model.restore([FacesRequest(faces(1))])
    assert isinstance(answer, Refused)
    assert answer.status == 503
    assert "the tracking server does not answer" in answer.message
    source.is_away = False
    model.follow()
    assert restored_by(model) == "hdrface/1"


def test_a_lost_server_does_not_end_a_loaded_model(model: FollowingModel, source: Source) -> None:
    model.follow()
    source.is_away = True
    model.follow()
    assert restored_by(model) == "hdrface/1"
    assert "does not answer" in model.state("x").problem
    source.is_away = False
    model.follow()
    assert model.state("x").problem == ""
    assert source.loads == ["hdrface/1"]


def test_a_version_that_fails_its_self_test_is_not_used_or_tried_again(
    model: FollowingModel, source: Source
) -> None:
    model.follow()
    source.number = 2
    model.follow()
    model.follow()
    assert restored_by(model) == "hdrface/1"
    assert "hdrface/2 failed its self-test" in model.state("x").problem
    assert source.loads == ["hdrface/1", "hdrface/2"]
    source.number = 3
    model.follow()
    assert restored_by(model) == "hdrface/3"
    assert model.state("x").problem == ""


def test_each_request_of_a_batch_gets_its_own_faces_and_late_ones_are_refused(
    model: FollowingModel,
) -> None:
    model.follow()
    asked = [
        FacesRequest(faces(2, 1)),
        FacesRequest(faces(1, 2), give_up_at=time.time() - 1),
        FacesRequest([]),
        FacesRequest(faces(1, 3), fidelity=0.5),
        FacesRequest(faces(1, 4), color_fix="adain"),
        FacesRequest([np.zeros((SIZE * 2, SIZE * 2, 3), np.uint8)], color_fix="none"),
    ]
    together = model.restore(asked)
    assert isinstance(together[1], Refused)
    assert together[1].status == 504
    assert isinstance(together[5], Refused)
    assert together[5].code == "another_version"
    for index in (0, 2, 3, 4):
        [alone], answer = model.restore([asked[index]]), together[index]
        assert isinstance(alone, FacesAnswer)
        assert isinstance(answer, FacesAnswer)
        assert len(answer.faces) == len(asked[index].faces)
        for one, other in zip(alone.faces, answer.faces, strict=True):
            # One 8-bit step: sums of a batch are added in another order.
            assert np.abs(one.image.astype(int) - other.image).max() <= 1


def test_the_test_face_is_always_the_same_and_a_broken_model_fails(folder: Path) -> None:
    assert np.array_equal(self_test.draw_test_face(64), self_test.draw_test_face(64))
    restorer = load_restorer(folder)
    with torch.no_grad():
        for parameter in restorer.backbone.parameters():
            parameter.fill_(float("nan"))
    assert self_test.failure(FaceRestorer(restorer), MIN_PSNR) is not None
