from dataclasses import dataclass

import numpy as np
import pytest

from components.faces import align
from components.faces.detect import Detection
from components.faces.template import TEMPLATE, TEMPLATE_SIZE
from components.images import Image
from components.photographs.finding import find_faces, share_inside, whole_face
from tests.components.photographs.known_faces import KnownFaces

PHOTOGRAPH: Image = np.zeros((400, 600, 3), dtype=np.uint8)


def at(x: float, y: float, face: float) -> np.ndarray:
    centred = TEMPLATE - TEMPLATE.mean(axis=0)
    return centred * (2 * face / TEMPLATE_SIZE) + (x, y)


def reasons(*faces: np.ndarray, min_face: int = 16, only_center_face: bool = False) -> list:
    found = find_faces(
        PHOTOGRAPH, KnownFaces(faces), min_face=min_face, only_center_face=only_center_face
    )
    return [face.reason for face in found]


def test_a_face_knows_its_width() -> None:
    [face] = find_faces(
        PHOTOGRAPH, KnownFaces([at(300, 200, 90)]), min_face=16, only_center_face=False
    )
    assert face.width == pytest.approx(90)
    assert face.reason is None


def test_a_small_face_is_not_restored_and_has_a_reason() -> None:
    small, large = reasons(at(100, 200, 15), at(400, 200, 80))
    assert small == "it is about 15 pixels wide, below min_face = 16"
    assert large is None
    assert reasons(at(100, 200, 15), min_face=10) == [None]


def test_landmarks_that_form_no_face_are_not_restored() -> None:
    mixed = at(300, 200, 80)[[4, 2, 0, 1, 3]]
    [reason] = reasons(mixed)
    assert "its five landmarks are not a face" in reason


def test_a_face_whose_middle_is_outside_is_not_restored() -> None:
    assert reasons(at(-20, 200, 80)) == ["its middle lies outside the photograph"]


def test_the_centre_face_is_the_nearest_usable_one() -> None:
    nearest_but_small = at(310, 210, 10)
    assert reasons(at(80, 200, 80), nearest_but_small, at(420, 200, 80), only_center_face=True) == [
        "it is not the centre face",
        "it is about 10 pixels wide, below min_face = 16",
        None,
    ]
    assert reasons(only_center_face=True) == []


@pytest.mark.parametrize(("x", "share"), [(300, 1.0), (0, 0.5)])
def test_a_face_at_the_border_records_its_visible_share(x: float, share: float) -> None:
    # The square's middle is not that of the landmarks, but it is in the middle across.
    face = align.fit(at(x, 200, 80))
    assert share_inside(face, PHOTOGRAPH) == pytest.approx(share, abs=0.04)


@pytest.mark.parametrize("size", [64, 512, 1024])
def test_an_aligned_photograph_lies_on_the_template(size: int) -> None:
    photograph = np.zeros((size, size, 3), dtype=np.uint8)
    face = whole_face(photograph)
    assert face.similarity is not None
    assert face.similarity.apply(face.landmarks) == pytest.approx(TEMPLATE, abs=1e-9)
    assert align.fit(face.landmarks).matrix == pytest.approx(face.similarity.matrix, abs=1e-9)
    assert face.similarity.crop_side == pytest.approx(size)
    assert share_inside(face.similarity, photograph) == 1


def test_an_aligned_photograph_is_square() -> None:
    with pytest.raises(ValueError, match="600 x 400 is not square"):
        whole_face(PHOTOGRAPH)


@dataclass(frozen=True)
class Doubting:
    def detect(self, image: Image) -> list[Detection]:
        del image
        return [Detection(at(100, 100, 60), 0.75, (70, 70, 130, 130), "which way up?")]


def test_a_doubtful_face_is_not_restored_and_says_so() -> None:
    [face] = find_faces(PHOTOGRAPH, Doubting(), min_face=16, only_center_face=False)
    assert (face.reason, face.is_doubtful) == ("which way up?", True)


@dataclass(frozen=True)
class TwoScores:
    def detect(self, image: Image) -> list[Detection]:
        del image
        return [Detection(at(100, 100, 60), 0.75, (70, 70, 130, 130))]


def test_box_and_score_are_the_detectors() -> None:
    [face] = find_faces(PHOTOGRAPH, TwoScores(), min_face=16, only_center_face=False)
    assert (face.score, face.box) == (0.75, (70, 70, 130, 130))
