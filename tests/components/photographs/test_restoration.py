import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from components import images
from components.faces import align
from components.faces.cutter import MIN_SCORE
from components.faces.detect import open_detector
from components.metrics.identity import IdentityAngle
from components.photographs import photograph
from components.photographs.face_restorer import FaceRestorer
from components.photographs.options import RestoreOptions
from components.photographs.photograph import Photograph
from components.photographs.restoration import (
    PhotographRestorer,
    finish,
    output_size,
    prepare,
)
from components.portraits import samples
from components.restorers.folder import load_restorer
from tests.components.photographs.known_faces import KnownFaces, portrait, restorer_of
from tests.counted_faces import SHOWN
from tests.small_networks import SIZE, trained

DEFAULTS = RestoreOptions()


def group() -> tuple[Photograph, KnownFaces]:
    """Return InsightFace's photograph of six people."""
    [found] = [sample for sample in samples.carried() if sample.name == "t1.jpg"]
    return photograph.read(found.data), KnownFaces(found.landmarks)


def test_six_faces_are_restored_and_the_background_is_unchanged(
    small_restorer: FaceRestorer,
) -> None:
    taken, detector = group()
    restored = restorer_of(small_restorer, detector).restore(taken, DEFAULTS)
    record = restored.record
    assert (record.num_restored, record.model_size, record.note) == (6, SIZE, None)
    assert (record.width, record.height) == (taken.pixels.shape[1], taken.pixels.shape[0])
    changed = (restored.photograph.pixels != taken.pixels).any(axis=-1)
    for face in record.faces:
        x, y = np.mean(face.landmarks, axis=0).astype(int)
        assert changed[y, x]
    squares = np.zeros_like(changed)
    for points in detector.landmarks:
        half = align.fit(points).crop_side / 2 * 1.5
        x, y = points.mean(axis=0)
        squares[
            max(0, int(y - half)) : int(y + half) + 1, max(0, int(x - half)) : int(x + half) + 1
        ] = True
    assert not changed[~squares].any()
    assert json.loads(json.dumps(asdict(record)))["faces"][0]["restored"] is True
    assert [face.gate is not None for face in restored.faces] == [True] * 6


def test_faces_of_several_photographs_in_one_batch_return_to_their_own(
    small_restorer: FaceRestorer,
) -> None:
    both = [portrait(1), group(), portrait(2)]
    together = restorer_of(small_restorer, both[0][1])
    prepared = [
        (taken, prepare(taken.pixels, detector, DEFAULTS, size=SIZE)) for taken, detector in both
    ]
    for (taken, detector), done in zip(
        both, together.restore_prepared(prepared, DEFAULTS), strict=True
    ):
        alone = restorer_of(small_restorer, detector).restore(taken, DEFAULTS)
        assert done.record == alone.record
        # The last bits of a network's output depend on what shares a batch.
        difference = done.photograph.pixels.astype(int) - alone.photograph.pixels
        assert np.abs(difference).max() <= 1


def test_scale_enlarges_the_picture_and_its_face(small_restorer: FaceRestorer) -> None:
    taken, detector = portrait()
    restorer = restorer_of(small_restorer, detector)
    small = restorer.restore(taken, DEFAULTS).photograph.pixels
    large = restorer.restore(taken, RestoreOptions(scale=2)).photograph.pixels
    assert large.shape == (640, 640, 3)
    shrunk = large.reshape(320, 2, 320, 2, 3).mean(axis=(1, 3))
    assert np.abs(shrunk - small).mean() < 1.5


def test_a_photograph_without_faces_is_unchanged(small_restorer: FaceRestorer) -> None:
    taken, _ = portrait()
    restored = restorer_of(small_restorer, KnownFaces([])).restore(taken, DEFAULTS)
    assert restored.record.note == "no face found"
    assert restored.record.faces == []
    assert np.array_equal(restored.photograph.pixels, taken.pixels)


def test_a_face_that_is_not_restored_keeps_every_pixel_and_has_a_reason(
    small_restorer: FaceRestorer,
) -> None:
    taken, detector = portrait()
    restored = restorer_of(small_restorer, detector).restore(taken, RestoreOptions(min_face=300))
    [face] = restored.record.faces
    assert not face.restored
    assert face.reason is not None
    assert "below min_face = 300" in face.reason
    assert restored.record.note == "no face was restored: each face has its reason"
    assert np.array_equal(restored.photograph.pixels, taken.pixels)


def test_a_face_above_the_angle_is_flagged_and_optionally_not_restored() -> None:
    taken, detector = portrait()
    prepared = prepare(taken.pixels, detector, DEFAULTS, size=SIZE)
    grey = [np.full((SIZE, SIZE, 3), 128, dtype=np.uint8)]

    def faces(options: RestoreOptions) -> tuple[images.Image, bool, bool]:
        canvas, record = finish(taken.pixels, prepared, grey, options, size=SIZE, angles=[47.0])
        [face] = record.faces
        assert face.angle == 47.0
        return canvas, face.flagged, face.restored

    for limit, expected in ((50, (False, True)), (40, (True, True))):
        canvas, *said = faces(RestoreOptions(max_angle=limit))
        assert tuple(said) == expected
        assert (canvas != taken.pixels).any()
    canvas, *said = faces(RestoreOptions(max_angle=40, leave_flagged=True))
    assert said == [True, False]
    assert np.array_equal(canvas, taken.pixels)


def test_an_aligned_face_is_restored_whole(small_restorer: FaceRestorer) -> None:
    face = portrait()[0].pixels[:256, :256]
    options = RestoreOptions(aligned=True)
    restored = PhotographRestorer(small_restorer).restore(Photograph(face, "png"), options)
    expected = small_restorer.restore([images.resize(face, SIZE)])[0].image
    assert np.array_equal(restored.photograph.pixels, images.resize(expected, 256))
    [said] = restored.record.faces
    assert (said.inside, said.misfit, said.score, said.restored) == (1, 0, None, True)


def test_a_face_gets_the_same_result_in_any_batch(tmp_path: Path, networks: Path) -> None:
    # Qwen-Image takes noise; it is keyed by the face.
    restorer = FaceRestorer(load_restorer(trained(tmp_path, networks, "qwen", "text")))
    draw = np.random.default_rng(0)
    a, b, c = draw.integers(256, size=(3, SIZE, SIZE, 3), dtype=np.uint8)
    alone = restorer.restore([b], fidelity=0)[0].image
    among = restorer.restore([a, b, c], fidelity=0)[1].image
    assert np.abs(alone.astype(int) - among).max() <= 1
    assert not np.array_equal(restorer.restore([b], fidelity=1.0)[0].image, alone)
    assert restorer.color_fix(None) == "wavelet"  # the paper's for Qwen-Image
    assert restorer.restore([b])[0].gate is None  # the condition is a text


def test_options_that_the_networks_cannot_follow_are_refused(small_restorer: FaceRestorer) -> None:
    taken, detector = portrait()
    restorer = restorer_of(small_restorer, detector)
    with pytest.raises(ValueError, match=r"fidelity = 0\.5: sd21-sdfm accepts only 1"):
        restorer.restore(taken, RestoreOptions(fidelity=0.5))
    with pytest.raises(ValueError, match="max_angle needs an identity network"):
        restorer.restore(taken, RestoreOptions(max_angle=30))
    with pytest.raises(ValueError, match="give a face detector"):
        PhotographRestorer(small_restorer).restore(taken, DEFAULTS)
    with pytest.raises(ValueError, match=r"scale = 4 enlarges 15000 x 5000 to 60000 x 20000"):
        output_size(15000, 5000, 4)
    for wrong in (
        *({"scale": 0.5}, {"fidelity": 2}, {"color_fix": "lab"}, {"min_face": 0}),
        *({"leave_flagged": True}, {"leave_flagged": True, "max_angle": None}),
    ):
        with pytest.raises(ValidationError):
            RestoreOptions.model_validate(wrong)


@pytest.mark.shared
def test_counted_faces_are_restored_in_whole_photographs(shared_dir: Path) -> None:
    detector = open_detector(shared_dir / "weights" / "det_500m.onnx", min_score=MIN_SCORE)
    for name, count in SHOWN.items():
        taken = photograph.read((shared_dir / "faces" / "whole" / name).read_bytes())
        prepared = prepare(taken.pixels, detector, DEFAULTS, size=64)
        assert [face.reason for face in prepared.faces] == [None] * count
        # What a perfect model of 64 pixels would give: the faces as they were cut.
        canvas, record = finish(taken.pixels, prepared, prepared.squares, DEFAULTS, size=64)
        assert record.num_restored == count
        assert canvas.shape == taken.pixels.shape
        # The faces are a little softer, and in place: one that is turned or off by its width
        # differs by 40 levels and more.
        changed = (canvas != taken.pixels).any(axis=-1)
        error = np.abs(canvas.astype(int) - taken.pixels)[changed].mean()
        assert error < 10


@pytest.mark.shared
def test_angles_separate_a_kept_identity_from_a_lost_one(
    small_restorer: FaceRestorer, shared_dir: Path
) -> None:
    taken, detector = group()
    restorer = PhotographRestorer(
        small_restorer,
        detector=detector,
        angle=IdentityAngle(shared_dir / "weights" / "mobilefacenet.onnx"),
    )
    lost = restorer.restore(taken, RestoreOptions(max_angle=45, leave_flagged=True)).record
    assert all(face.flagged and not face.restored for face in lost.faces)  # an untrained model
    assert lost.num_restored == 0
