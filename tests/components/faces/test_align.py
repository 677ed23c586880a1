import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.transform import SimilarityTransform

from components import images
from components.faces import align
from components.faces.align import AlignmentError
from components.faces.landmarks import Landmarks
from components.faces.template import TEMPLATE


def _moved(scale: float, angle: float, x: float, y: float) -> Landmarks:
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.asarray(TEMPLATE @ turn.T * scale + (x, y))


@settings(max_examples=60)
@given(st.floats(0.05, 20), st.floats(-3.1, 3.1), st.floats(-4000, 4000), st.floats(-4000, 4000))
def test_a_moved_turned_scaled_template_is_fitted_exactly(
    scale: float, angle: float, x: float, y: float
) -> None:
    similarity = align.fit(_moved(scale, angle, x, y))
    assert similarity.apply(_moved(scale, angle, x, y)) == pytest.approx(TEMPLATE, abs=1e-6)
    assert similarity.misfit == pytest.approx(0, abs=1e-6)
    assert similarity.crop_side == pytest.approx(512 * scale, rel=1e-6)


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1))
def test_the_fit_equals_umeyamas(seed: int) -> None:
    points = _moved(0.7, 0.3, 40, 90) + np.random.default_rng(seed).normal(0, 8, (5, 2))
    similarity = align.fit(points)
    reference = SimilarityTransform.from_estimate(points, TEMPLATE).params
    assert similarity.matrix == pytest.approx(reference[:2, :2], abs=1e-9)
    assert similarity.shift == pytest.approx(reference[:2, 2], abs=1e-6)


@pytest.mark.parametrize(
    "points",
    [
        np.zeros((5, 2)),
        TEMPLATE[[1, 0, 2, 4, 3]],  # left and right taken from the person's point of view
        TEMPLATE[[2, 0, 1, 3, 4]],
        np.array([[0.0, 0], [100, 0], [200, 0], [300, 0], [400, 0]]),
    ],
)
def test_five_points_that_are_not_a_face_are_refused(points: Landmarks) -> None:
    with pytest.raises(AlignmentError):
        align.fit(points)


def _dots(size: int, points: Landmarks, radius: float) -> images.Image:
    """White discs on black at exact places, antialiased."""
    rows, columns = np.mgrid[0:size, 0:size]
    picture = np.zeros((size, size))
    for x, y in points:
        picture = np.maximum(picture, np.clip(radius + 0.5 - np.hypot(columns - x, rows - y), 0, 1))
    return np.repeat(np.rint(picture * 255).astype(np.uint8)[..., None], 3, axis=2)


def _centres(picture: images.Image, near: Landmarks, reach: float) -> Landmarks:
    rows, columns = np.mgrid[0 : picture.shape[0], 0 : picture.shape[1]]
    found = []
    for x, y in near:
        weight = picture[..., 0] * (np.hypot(columns - x, rows - y) < reach)
        found.append(
            [(weight * columns).sum() / weight.sum(), (weight * rows).sum() / weight.sum()]
        )
    return np.array(found)


@pytest.mark.parametrize("scale", [0.35, 1.0, 2.1])
@pytest.mark.parametrize("size", [512, 256, 64])
def test_landmarks_of_the_photograph_come_to_the_template(scale: float, size: int) -> None:
    points = _moved(scale, 0.4, 260 * scale, 60 * scale)
    photograph = _dots(int(800 * scale), points, radius=16 * scale)
    aligned = align.cut(photograph, align.fit(points), size)
    assert aligned.shape == (size, size, 3)
    expected = (TEMPLATE + 0.5) * size / 512 - 0.5
    error = np.abs(_centres(aligned, expected, 24 * size / 512) - expected).max()
    assert error < 0.02 * max(1, size / 64)


def test_a_large_photograph_is_shrunk_without_aliasing() -> None:
    checker = (np.indices((3000, 3000)).sum(0) % 2 * 255).astype(np.uint8)
    photograph = np.repeat(checker[..., None], 3, axis=2)
    aligned = align.cut(photograph, align.fit(_moved(5.1, 0.05, 200, 200)), 64)
    assert np.abs(aligned.astype(float) - 127.5).max() < 4


def test_an_aligned_picture_of_the_same_size_stays_the_same() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    assert (align.cut(noise, align.fit(TEMPLATE), 512) == noise).all()


def test_outside_the_photograph_is_its_mirror_image() -> None:
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 256, axis=0)
    photograph = np.ascontiguousarray(np.repeat(ramp, 3, axis=2))
    aligned = align.cut(photograph, align.fit(_moved(0.5, 0, -64, 0)), 256)
    assert aligned[128, 64].tolist() == pytest.approx([0] * 3, abs=2)
    assert aligned[128, 14].tolist() == pytest.approx(aligned[128, 114].tolist(), abs=2)


def test_cv2_and_our_arithmetic_agree_on_the_place_of_a_pixel() -> None:
    smooth = cv2.GaussianBlur(
        np.random.default_rng(3).integers(0, 256, (400, 400, 3), dtype=np.uint8), (0, 0), 6
    )
    similarity = align.fit(_moved(0.5, 0.2, 90, 40))
    aligned = align.cut(np.asarray(smooth, np.uint8), similarity, 512)
    x, y = 310, 207
    back = np.linalg.inv(similarity.matrix) @ (np.array([x, y]) - similarity.shift)
    expected = cv2.getRectSubPix(smooth, (1, 1), (float(back[0]), float(back[1])))[0, 0]
    assert aligned[y, x].astype(float) == pytest.approx(expected.astype(float), abs=2)
