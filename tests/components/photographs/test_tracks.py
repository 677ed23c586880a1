import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.faces import align
from components.faces.landmarks import Landmarks
from components.faces.template import TEMPLATE, TEMPLATE_SIZE
from components.images import Image
from components.photographs.finding import FoundFace
from components.photographs.tracks import HOLD, Blend, Tracker, smooth

FRAME: Image = np.full((200, 300, 3), 90, dtype=np.uint8)


def face(x: float, y: float, width: float = 60) -> FoundFace:
    centred = TEMPLATE - TEMPLATE.mean(axis=0)
    points = centred * (2 * width / TEMPLATE_SIZE) + (x, y)
    return FoundFace(points, (0, 0, 1, 1), 0.9, align.fit(points))


def middle(one: FoundFace) -> Landmarks:
    return one.landmarks.mean(axis=0)


def test_a_trembling_face_trembles_less() -> None:
    tracker, draw = Tracker(), np.random.default_rng(0)
    still = face(150, 100).landmarks
    given, smoothed = [], []
    for _ in range(60):
        found = still + draw.normal(scale=0.5, size=(5, 2))
        [one] = tracker.follow(FRAME, [FoundFace(found, (0, 0, 1, 1), 0.9, align.fit(found))])
        given.append(found)
        smoothed.append(one.face.landmarks)
        assert one.face.similarity is not None
        matrix = align.fit(one.face.landmarks).matrix
        assert one.face.similarity.matrix == pytest.approx(matrix)
    steps = [np.abs(np.diff(path, axis=0)).mean() for path in (given, smoothed)]
    assert steps[1] < 0.6 * steps[0]
    assert np.mean(smoothed, axis=0) == pytest.approx(still, abs=0.3)


def test_a_face_that_moves_is_followed_without_lag() -> None:
    tracker = Tracker()
    tracker.follow(FRAME, [face(60, 100)])
    for step in range(1, 15):  # a quarter of its width a frame
        [one] = tracker.follow(FRAME, [face(60 + 15 * step, 100)])
        assert one.track == 1
        assert middle(one.face) == pytest.approx(middle(face(60 + 15 * step, 100)), abs=0.1)


def test_two_faces_keep_their_tracks() -> None:
    tracker = Tracker()
    for step in range(8):
        followed = tracker.follow(FRAME, [face(150 + step, 100), face(60 + step, 100)])
        tracks = {one.track: middle(one.face)[0] for one in followed}
        assert tracks.keys() == {1, 2}
        assert tracks[1] > tracks[2]


def test_a_track_survives_a_missed_detection() -> None:
    tracker = Tracker()
    tracker.follow(FRAME, [face(150, 100)])
    for _ in range(HOLD):
        [held] = tracker.follow(FRAME, [])
        assert held.track == 1
    assert tracker.follow(FRAME, []) == []
    [back] = tracker.follow(FRAME, [face(150, 100)])
    assert back.track == 2


def test_a_cut_ends_all_tracks() -> None:
    tracker = Tracker()
    tracker.follow(FRAME, [face(150, 100)])
    [other] = tracker.follow(255 - FRAME, [face(152, 100)])
    assert other.track == 2
    assert tracker.follow(FRAME, []) == []


def test_a_face_that_is_not_restored_gets_no_track() -> None:
    left = FoundFace(face(50, 50).landmarks, (0, 0, 1, 1), 0.9, None, reason="too small")
    [one] = Tracker().follow(FRAME, [left])
    assert (one.face, one.track) == (left, None)


@given(st.floats(-40, 40), st.floats(-40, 40))
def test_a_smoothed_position_lies_between_the_old_and_the_new_one(dx: float, dy: float) -> None:
    before = face(150, 100).landmarks
    now = before + np.array([dx, dy])
    moved = smooth(before, now) - before
    share = moved[0] @ (dx, dy) / max(dx * dx + dy * dy, 1e-12)
    assert -1e-9 <= share <= 1 + 1e-9
    assert smooth(before, before) == pytest.approx(before)


def test_blending_removes_noise_of_a_still_face_and_keeps_movement() -> None:
    draw, blend = np.random.default_rng(0), Blend()
    square = np.full((64, 64, 3), 120, dtype=np.uint8)
    given = draw.integers(100, 140, size=(30, 64, 64, 3), dtype=np.uint8)
    mixed = [blend.mix(1, square, restored) for restored in given]
    flicker = [
        np.abs(np.diff(np.asarray(frames, dtype=np.int64), axis=0)).mean()
        for frames in (given, mixed)
    ]
    assert flicker[1] < 0.6 * flicker[0]
    moved = square.copy()
    moved[:32] = 220  # the upper half changes, and shows at once
    last = blend.mix(1, moved, given[0])
    assert np.array_equal(last[:24], given[0][:24])
    assert not np.array_equal(last[40:], given[0][40:])


def test_tracks_are_blended_separately_and_forgotten_at_their_end() -> None:
    blend = Blend()
    square = np.zeros((8, 8, 3), dtype=np.uint8)
    white = np.full_like(square, 255)
    assert np.array_equal(blend.mix(1, square, white), white)
    assert np.array_equal(blend.mix(2, square, square), square)
    assert blend.mix(1, square, square).max() > 100  # half of what it was
    blend.keep([2])
    assert blend.mix(1, square, square).max() == 0
