import cv2
import numpy as np
import pytest

from components import images
from components.faces.cutter import FaceCutter
from components.faces.detect import Detection
from components.faces.landmarks import Landmarks
from components.faces.template import TEMPLATE


def _face(x: float, y: float, side: float) -> Landmarks:
    """Return landmarks of a face whose aligned square is `side` wide, with a corner at (x, y)."""
    return np.asarray(TEMPLATE * side / 512 + (x, y))


class KnownFaces:
    """A detector with a given answer; the real ones are tested on photographs."""

    def __init__(self, *found: tuple[Landmarks, float]) -> None:
        self.found = found

    def detect(self, image: images.Image) -> list[Detection]:
        del image
        return [Detection(points, score, (0, 0, 0, 0)) for points, score in self.found]


def _cutter(
    *found: tuple[Landmarks, float], aligned: bool = False, detector: bool = True
) -> FaceCutter:
    return FaceCutter(
        size=32, min_face=20, aligned=aligned, detector=KnownFaces(*found) if detector else None
    )


def _png(width: int = 400, height: int = 200) -> bytes:
    ramp = np.linspace(0, 255, width)[None, :, None] * np.ones((height, 1, 3))
    return images.encode_png(ramp.astype(np.uint8))


def test_several_faces_are_numbered_from_the_left() -> None:
    cut = _cutter((_face(250, 50, 80), 0.9), (_face(30, 20, 100), 0.6)).cut("a b.jpg", _png())
    assert [face.face_id for face in cut.faces] == ["a b.jpg#1", "a b.jpg#2"]
    left, right = (float(face.hq.mean()) for face in cut.faces)
    assert left < right
    assert all(face.hq.shape == (32, 32, 3) for face in cut.faces)
    assert cut.reasons == []


def test_ten_faces_keep_the_order_of_their_ids() -> None:
    faces = [(_face(20 * number, 20, 60), 0.9) for number in range(12)]
    ids = [face.face_id for face in _cutter(*faces).cut("x.jpg", _png()).faces]
    assert ids == sorted(ids)
    assert ids[0] == "x.jpg#01"


def test_one_face_is_named_like_its_file_and_each_rejection_has_a_reason() -> None:
    cut = _cutter(
        (_face(30, 20, 100), 0.9),
        (_face(200, 50, 36), 0.9),
        (_face(300, 50, 80), 0.41),
        (_face(300, 500, 80), 0.9),
        (np.full((5, 2), 77.0), 0.9),
    ).cut("x.jpg", _png())
    assert [face.face_id for face in cut.faces] == ["x.jpg"]
    assert cut.reasons == [
        "the face at (340, 98): its score is 0.41, below 0.5",
        "the face at (77, 77): its five landmarks are one point",
        "the face at (218, 72): it is about 18 pixels wide, at least 20 are needed "
        "(faces.min_face)",
        "the face at (340, 548): it lies outside the picture, 400 x 200",
    ]


def test_a_doubtful_face_is_left_out_with_its_reason() -> None:
    class Doubting:
        def detect(self, image: images.Image) -> list[Detection]:
            del image
            return [Detection(_face(30, 20, 100), 0.9, (0, 0, 0, 0), "which way up?")]

    cutter = FaceCutter(size=32, min_face=20, aligned=False, detector=Doubting())
    assert cutter.cut("x.jpg", _png()) == ([], ["the face at (80, 80): which way up?"])


def test_given_landmarks_are_used_instead_of_the_detector() -> None:
    cutter = _cutter((_face(250, 50, 80), 0.9))
    assert [face.face_id for face in cutter.cut("x.jpg", _png()).faces] == ["x.jpg"]
    given = [_face(30, 20, 100), _face(100, 20, 100)]
    assert len(cutter.cut("x.jpg", _png(), given).faces) == 2


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"this is text", "not a JPEG"),
        (_png()[:300], "truncated or broken"),
        (_png(3, 3), "too small: 3 x 3"),
        (_png(), "no face found"),
    ],
)
def test_an_unusable_picture_gets_a_reason(data: bytes, reason: str) -> None:
    cut = _cutter().cut("x.jpg", data)
    assert cut.faces == []
    assert len(cut.reasons) == 1
    assert cut.reasons[0].startswith(reason)


def test_without_landmarks_and_detector_the_reason_names_the_detector() -> None:
    cut = _cutter(detector=False).cut("x.jpg", _png())
    assert cut == ([], ["no landmarks are given for it: name a detector (faces.detector)"])


def test_aligned_pictures_must_be_square_and_large_enough() -> None:
    cutter = _cutter(aligned=True, detector=False)
    data = _png(128, 128)
    [face] = cutter.cut("x.png", data).faces
    area = cv2.resize(images.decode(data), (32, 32), interpolation=cv2.INTER_AREA)
    assert (face.hq == area).all()
    assert cutter.cut("x.png", _png(400, 200)).reasons == [
        "400 x 200 is not square, as aligned faces are: for photographs, set faces.aligned to "
        "false and name a detector (faces.detector)"
    ]
    assert "about 18 pixels wide" in cutter.cut("x.png", _png(36, 36)).reasons[0]
