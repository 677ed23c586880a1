import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.faces import align
from components.faces.landmarks import Landmarks
from components.faces.template import TEMPLATE, TEMPLATE_SIZE
from components.images import Image
from components.photographs.paste import paste, soft_mask
from components.portraits import drawing

SKIN = np.array([205, 160, 135], dtype=np.uint8)
TURNED = np.array([[214, 240], [300, 238], [292, 314], [214, 371], [290, 371]], dtype=np.float64)


def placed(face: float, angle: float, x: float, y: float) -> Landmarks:
    """Return the template's landmarks with a face `face` pixels wide, turned, about (x, y)."""
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centred = TEMPLATE - TEMPLATE.mean(axis=0)
    return centred @ turn.T * (2 * face / TEMPLATE_SIZE) + (x, y)


def mask_of(landmarks: Landmarks) -> npt.NDArray[np.float32]:
    x, y = np.meshgrid(np.arange(512, dtype=np.float32), np.arange(512, dtype=np.float32))
    return soft_mask(landmarks, x, y)


@pytest.mark.parametrize("angle", [0.0, 0.5, -2.5])
@pytest.mark.parametrize("face", [80, 160])
@pytest.mark.parametrize("size", [64, 512])
def test_no_seam_is_seen_on_flat_skin(size: int, face: int, angle: float) -> None:
    # A restoration that is lighter by 12 levels all over: more than models differ by on flat skin.
    shift = 12
    photograph = np.full((400, 400, 3), SKIN, dtype=np.uint8)
    landmarks = placed(face, angle, 200, 200)
    restored = np.full((size, size, 3), SKIN + shift, dtype=np.uint8)
    canvas = photograph.copy()
    paste(canvas, restored, align.fit(landmarks), landmarks, (1.0, 1.0))
    added = (canvas.astype(np.int64) - photograph).mean(axis=2)
    assert added.max() == shift  # the face itself is the restored one
    assert added.min() == 0
    # Anywhere in the picture neighbours differ by 2 levels at most, and so do the means of both
    # sides of each contour, the mask's rim first.
    assert np.abs(np.diff(added, axis=0)).max() <= 2
    assert np.abs(np.diff(added, axis=1)).max() <= 2
    for level in range(shift):
        region = (added > level).astype(np.uint8)
        inner = region.astype(bool) & ~cv2.erode(region, np.ones((3, 3))).astype(bool)
        outer = cv2.dilate(region, np.ones((3, 3))).astype(bool) & ~region.astype(bool)
        assert added[inner].mean() - added[outer].mean() <= 2


def test_pasting_the_cut_square_gives_the_photograph_again() -> None:
    portrait = drawing.draw(1, 2)
    similarity = align.fit(portrait.landmarks)
    face = align.cut(portrait.image, similarity, 512)
    canvas = portrait.image.copy()
    paste(canvas, face, similarity, portrait.landmarks, (1.0, 1.0))
    error = np.abs(canvas.astype(int) - portrait.image)
    assert 0 < error.mean() < 1  # half a pixel off gives 2
    assert np.array_equal(canvas[:8], portrait.image[:8])


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_a_restored_point_lands_on_its_landmark(scale: float) -> None:
    landmarks = placed(90, 0.4, 150, 140)
    similarity = align.fit(landmarks)
    canvas = np.zeros((round(300 * scale), round(280 * scale), 3), dtype=np.uint8)
    face = np.zeros((512, 512, 3), dtype=np.uint8)
    x, y = TEMPLATE[2]  # the nose
    rows, columns = np.mgrid[:512, :512]
    face[np.hypot(columns - x, rows - y) < 20] = 255
    paste(canvas, face, similarity, landmarks, (scale, scale))
    weight = canvas[..., 0].astype(np.float64)
    rows, columns = np.mgrid[: canvas.shape[0], : canvas.shape[1]]
    found = np.array([(columns * weight).sum(), (rows * weight).sum()]) / weight.sum()
    # Whole numbers are the centres of pixels: the edge of the first is at -0.5.
    assert found == pytest.approx((landmarks[2] + 0.5) * scale - 0.5, abs=0.3)


def test_the_mask_covers_the_face_and_ends_inside_the_square() -> None:
    mask = mask_of(TEMPLATE)
    for x, y in TEMPLATE.round().astype(int):
        assert mask[y, x] == 1
    rim = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    assert rim.max() < 0.001
    assert mask.min() == 0
    assert np.abs(np.diff(mask, axis=0)).max() < 0.03  # a level of 33 a pixel of the template
    assert np.abs(np.diff(mask, axis=1)).max() < 0.03


def test_the_mask_of_a_turned_face_moves_away_from_its_nose() -> None:
    frontal, turned = mask_of(TEMPLATE), mask_of(TURNED)
    columns = np.arange(512)
    middle = [float((mask * columns).sum() / mask.sum()) for mask in (frontal, turned)]
    assert middle[1] < middle[0] - 10
    # Mirrored faces have mirrored masks.
    mirrored = TURNED[[1, 0, 2, 4, 3]] * (-1, 1) + (511, 0)
    assert mask_of(mirrored)[:, ::-1] == pytest.approx(turned, abs=1e-4)


@settings(max_examples=40, deadline=None)
@given(
    st.floats(8, 300),
    st.floats(-3, 3),
    st.floats(-50, 170),
    st.floats(-50, 130),
    st.sampled_from([1.0, 1.5, 2.0]),
)
def test_only_the_oval_changes_at_any_place_and_size(
    face: float, angle: float, x: float, y: float, scale: float
) -> None:
    canvas: Image = np.full((round(80 * scale), round(120 * scale), 3), 90, dtype=np.uint8)
    landmarks = placed(face, angle, x, y)
    similarity = align.fit(landmarks)
    paste(canvas, np.full((64, 64, 3), 190, np.uint8), similarity, landmarks, (scale, scale))
    assert canvas.min() >= 90
    assert canvas.max() <= 190
    rows, columns = np.mgrid[: canvas.shape[0], : canvas.shape[1]]
    photo = (np.stack([columns, rows], axis=-1) + 0.5) / scale - 0.5
    template = similarity.apply(photo.reshape(-1, 2)).reshape(*photo.shape)
    outside = ((template < -1) | (template > 512)).any(axis=-1)
    assert (canvas[outside] == 90).all()
