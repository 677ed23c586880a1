from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

from components import images
from components.faces import align
from components.faces.detect import Detector, DetectorError, open_detector
from components.faces.template import TEMPLATE
from components.portraits import drawing
from tests.counted_faces import SHOWN

SCRFD, FIXED_SCRFD = "det_500m.onnx", "scrfd_500m_bnkps.onnx"
YUNET = "face_detection_yunet_2023mar.onnx"
DETECTORS = (SCRFD, FIXED_SCRFD, YUNET)

# YuNet sees a fourth face in the faded print.
MISCOUNTED = {(YUNET, "vqfr_10045.png"): 4}


@pytest.fixture(scope="module", params=DETECTORS)
def detector_file(request: pytest.FixtureRequest, shared_dir: Path) -> Path:
    return shared_dir / "weights" / str(request.param)


@pytest.fixture(scope="module")
def detector(detector_file: Path) -> Detector:
    return open_detector(detector_file, min_score=0.5)


@pytest.mark.shared
def test_it_finds_the_faces_of_photographs_from_left_to_right(
    detector: Detector, detector_file: Path, shared_dir: Path
) -> None:
    found = {}
    for name in SHOWN:
        picture = images.decode((shared_dir / "faces" / "whole" / name).read_bytes())
        faces = detector.detect(picture)
        found[name] = len(faces)
        middles = [(face.box[0] + face.box[2]) / 2 for face in faces]
        assert middles == sorted(middles)
        for face in faces:
            assert 0.5 <= face.score <= 1
            assert align.fit(face.landmarks).misfit < 0.2  # so left is left and right is right
            left, top, right, bottom = face.box
            assert left < face.landmarks[:, 0].mean() < right
            assert top < face.landmarks[:, 1].mean() < bottom
    expected = {
        name: MISCOUNTED.get((detector_file.name, name), count) for name, count in SHOWN.items()
    }
    assert found == expected


@pytest.mark.shared
def test_aligned_faces_fill_the_picture_and_are_found_at_the_template(
    detector: Detector, shared_dir: Path
) -> None:
    files = sorted((shared_dir / "faces" / "hq").iterdir())[::8]
    errors = []
    for file in files:
        faces = detector.detect(images.decode(file.read_bytes()))
        best = max(faces, key=lambda face: face.score)
        errors.append(np.linalg.norm(best.landmarks - TEMPLATE, axis=1).mean())
    assert np.mean(errors) < 12  # of 512 pixels; the photographs themselves are 11 off
    assert np.max(errors) < 24


@pytest.mark.shared
def test_a_photograph_is_aligned_to_the_template(detector: Detector, shared_dir: Path) -> None:
    file = shared_dir / "faces" / "whole" / "debate_two_faces.jpg"
    picture = images.decode(file.read_bytes())
    for face in detector.detect(picture):
        aligned = align.cut(picture, align.fit(face.landmarks), 512)
        [again] = detector.detect(aligned)
        assert np.linalg.norm(again.landmarks - TEMPLATE, axis=1).mean() < 20


@pytest.mark.shared
def test_detectors_find_drawn_portraits(detector: Detector) -> None:
    errors = []
    for number in range(4):
        portrait = drawing.draw(1, number)
        [face] = detector.detect(portrait.image)
        scale = 512 / align.fit(portrait.landmarks).crop_side
        distance = np.linalg.norm(face.landmarks - portrait.landmarks, axis=1).mean()
        errors.append(distance * scale)
    assert np.mean(errors) < 15  # pixels of the 512 template, as far off as on photographs


@pytest.mark.shared
@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_turned_photograph_has_the_same_faces_turned(
    detector: Detector, shared_dir: Path, turns: int
) -> None:
    file = shared_dir / "faces" / "whole" / "codeformer_06.png"
    picture = images.decode(file.read_bytes())
    upright = detector.detect(picture)
    found = detector.detect(np.ascontiguousarray(np.rot90(picture, turns)))
    assert len(found) == len(upright) == 2
    height, width = picture.shape[:2]
    for face in found:
        assert face.doubt is None
        sizes = [(height, width), (width, height)]
        back = face.landmarks
        for turn in range(turns, 0, -1):  # a quarter to the right: x was y, from the other end
            back = np.stack([sizes[(turn - 1) % 2][1] - 1 - back[:, 1], back[:, 0]], axis=1)
        assert min(np.abs(back - one.landmarks).max() for one in upright) < 3


@pytest.mark.shared
def test_one_of_a_group_may_lie_head_down(detector: Detector, shared_dir: Path) -> None:
    picture = images.decode((shared_dir / "faces" / "whole" / "vqfr_example.jpg").read_bytes())
    upright = detector.detect(picture)
    left, top, right, bottom = (round(side) for side in upright[1].box)
    margin = (right - left) // 4
    rows = slice(max(0, top - margin), bottom + margin)
    columns = slice(left - margin, right + margin)
    picture[rows, columns] = picture[rows, columns][::-1, ::-1]
    faces = detector.detect(picture)
    assert [abs(face.roll_deg) > 150 for face in faces] == [False, True, False]


@pytest.mark.shared
def test_a_face_larger_than_the_detector_knows_is_found_once(
    detector: Detector, shared_dir: Path
) -> None:
    face = images.decode((shared_dir / "faces" / "hq" / "ffhq_00069.jpg").read_bytes())
    large = np.asarray(cv2.resize(face, (1200, 1200), interpolation=cv2.INTER_CUBIC), np.uint8)
    [found] = detector.detect(np.ascontiguousarray(large[:, 120:1080]))
    error = np.linalg.norm(
        found.landmarks + np.array([120, 0]) - TEMPLATE * 1200 / 512, axis=1
    ).mean()
    assert error < 24 * 1200 / 512


@pytest.mark.shared
def test_threads_may_share_a_detector(detector: Detector) -> None:
    sizes = [160, 320, 480, 640] * 8
    drawn = {size: drawing.draw(1, 0, size=size).image for size in set(sizes)}
    alone = {size: detector.detect(picture) for size, picture in drawn.items()}
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda size: detector.detect(drawn[size]), sizes))
    for size, found in zip(sizes, together, strict=True):
        assert [face.box for face in found] == [face.box for face in alone[size]]


@pytest.mark.shared
def test_an_empty_picture_has_no_face(detector: Detector) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (90, 160, 3), dtype=np.uint8)
    assert detector.detect(noise) == []


@pytest.mark.shared
def test_another_network_is_refused_and_described(shared_dir: Path) -> None:
    with pytest.raises(DetectorError, match=r"neither SCRFD with landmarks .* nor YuNet; it has 1"):
        open_detector(shared_dir / "weights" / "mobilefacenet.onnx", min_score=0.5)


def test_a_file_that_is_not_a_network_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "detector.onnx"
    text.write_text("no network")
    with pytest.raises(DetectorError, match="is not an ONNX network"):
        open_detector(text, min_score=0.5)
    with pytest.raises(DetectorError, match="cannot be read: No such file"):
        open_detector(tmp_path / "missing.onnx", min_score=0.5)
