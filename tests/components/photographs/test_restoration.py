import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
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
from components.restorers.protocol import Restoration
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


def shown(options: RestoreOptions, angle: float | None, problem: str | None = None) -> list:
    """Finish a portrait with a grey face; return what its record says of it."""
    taken, detector = portrait()
    prepared = prepare(taken.pixels, detector, DEFAULTS, size=SIZE)
    grey = [np.full((SIZE, SIZE, 3), 128, dtype=np.uint8)]
    angles = None if angle is None else [angle]
    canvas, record = finish(
        taken.pixels, prepared, grey, options, size=SIZE, problems=[problem], angles=angles
    )
    [face] = record.faces
    assert face.angle == angle
    assert face.restored == (canvas != taken.pixels).any()
    return [face.flagged, face.restored, face.reason]


def test_with_an_identity_network_a_face_that_became_another_is_left() -> None:
    assert shown(DEFAULTS, None) == shown(DEFAULTS, 79.0) == [False, True, None]
    reason = "its identity turned by 81 degrees, more than 80"
    assert shown(DEFAULTS, 81.0) == [True, False, reason]
    assert shown(RestoreOptions(max_angle=180), 81.0) == [False, True, None]
    assert shown(RestoreOptions(max_angle=90), 81.0) == [False, True, None]
    assert shown(RestoreOptions(max_angle=40), 47.0)[:2] == [True, False]
    assert shown(RestoreOptions(leave_flagged=False), 81.0) == [True, True, None]


def test_a_result_with_a_problem_is_never_pasted() -> None:
    options = RestoreOptions(leave_flagged=False, max_angle=180)
    assert shown(options, None, "it is a hat") == [True, False, "it is a hat"]


class Model:
    """A model of faces of 64 pixels whose answers are known."""

    name, size, fingerprint, precision = "known", 64, "", "float32"
    intermediates, fidelity, color_fix, is_preview = "unused", None, "none", False
    device = torch.device("cpu")

    def __init__(self, answers: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self._answers = answers

    def restore(self, lq_B3HW: torch.Tensor, *_: object, **__: object) -> Restoration:
        return Restoration(self._answers(lq_B3HW))


def faces_of_64(count: int) -> list[images.Image]:
    faces = [portrait(number) for number in range(1, count + 1)]
    return [
        align.cut(taken.pixels, align.fit(detector.landmarks[0]), 64) for taken, detector in faces
    ]


def in_print(face: images.Image, dark: tuple[int, ...], light: tuple[int, ...]) -> images.Image:
    """Print a face on paper: from dark to light ink by its lightness."""
    grey = (face @ np.array([0.299, 0.587, 0.114]))[..., None] / 255
    return np.rint(np.array(dark) + grey * (np.array(light) - np.array(dark))).astype(np.uint8)


def tinted(lq_B3HW: torch.Tensor) -> torch.Tensor:
    """Make the mouth redder, and the whole yellow: as models of colour faces do with grey ones."""
    warmer = lq_B3HW + torch.tensor([0.06, 0.03, -0.05]).view(1, 3, 1, 1)
    warmer[:, 0, 40:52, 24:40] += 0.1
    return warmer


def test_a_grey_face_stays_exactly_grey_unless_colour_is_asked_for() -> None:
    [face] = faces_of_64(1)
    grey = in_print(face, (0, 0, 0), (255, 255, 255))
    [kept] = FaceRestorer(Model(tinted)).restore([grey])
    assert (kept.image == kept.image[..., :1]).all()
    assert kept.image.astype(int).mean() > grey.astype(int).mean() + 2  # lightness is the model's
    [asked] = FaceRestorer(Model(tinted)).restore([grey], colorize=True)
    assert np.abs(np.ptp(asked.image.astype(int), axis=-1)).min() > 15


@pytest.mark.parametrize(
    ("dark", "light"),
    [
        ((40, 24, 10), (250, 232, 200)),
        ((90, 74, 60), (225, 205, 170)),
        ((10, 20, 90), (255, 240, 200)),
    ],
    ids=["sepia", "faded", "blue shadows, yellow lights"],
)
def test_a_toned_face_keeps_the_colour_of_each_lightness(
    dark: tuple[int, ...], light: tuple[int, ...]
) -> None:
    [face] = faces_of_64(1)
    toned = in_print(face, dark, light)
    noisy = np.random.default_rng(0).normal(toned, 3).clip(0, 255).astype(np.uint8)
    for square in (toned, noisy):
        [kept] = FaceRestorer(Model(tinted)).restore([square])
        # On the print's line from dark to light: what is off it, written out.
        line = np.array(light, float) - dark
        off = kept.image - np.array(dark, float)
        off -= (off @ line / (line @ line))[..., None] * line
        assert np.abs(off).mean() < 2
        assert np.abs(off).max() < 8


def test_a_colour_face_keeps_the_models_colours() -> None:
    taken, detector = group()
    faces = [align.cut(taken.pixels, align.fit(points), 64) for points in detector.landmarks]
    kept = FaceRestorer(Model(tinted)).restore(faces)
    free = FaceRestorer(Model(tinted)).restore(faces, colorize=True)
    for one, other in zip(kept, free, strict=True):
        assert np.array_equal(one.image, other.image)


def test_results_that_cannot_be_right_have_a_problem_and_spoil_no_other() -> None:
    face, other = faces_of_64(2)

    def answers(lq_B3HW: torch.Tensor) -> torch.Tensor:
        results = lq_B3HW.clone()
        if len(results) > 1:
            results[0, 1, 2, 3] = float("nan")
            results[1] = 0.5
            results[2] = torch.linspace(0, 1, 64)  # a shade from left to right
            results[3] = 1 - results[3]
        return results

    done = FaceRestorer(Model(answers)).restore([face, face, face, face, other])
    said = [one.problem and one.problem.partition(":")[0] for one in done]
    assert said == [
        "the model's result is not finite",
        "the model's result is of one colour",
        "the model's result is another picture",
        "the model's result is another picture",
        None,
    ]


def test_a_face_that_needs_more_than_bfloat16_stays_and_the_others_are_restored() -> None:
    faces = faces_of_64(3)

    def answers(lq_B3HW: torch.Tensor) -> torch.Tensor:
        wanted = images.to_tensor([faces[1]])
        if any(torch.equal(one, wanted[0]) for one in lq_B3HW):
            raise ArithmeticError("no finite picture in bf16: restore with precision float32")
        return lq_B3HW

    done = FaceRestorer(Model(answers)).restore(faces)
    assert [one.problem is None for one in done] == [True, False, True]
    assert "float32" in str(done[1].problem)


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
    assert np.abs(alone.astype(int) - among).max() <= 2
    # One by one, to the last bit.
    exact = FaceRestorer(load_restorer(tmp_path / "qwen-text"), batch_size=1)
    assert np.array_equal(exact.restore([a, b, c], fidelity=0)[1].image, alone)
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
    for wrong in (*({"scale": 0.5}, {"fidelity": 2}, {"color_fix": "lab"}, {"min_face": 0}),):
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
    lost = restorer.restore(taken, RestoreOptions(max_angle=45)).record
    assert all(face.flagged and not face.restored for face in lost.faces)  # an untrained model
    assert lost.num_restored == 0
