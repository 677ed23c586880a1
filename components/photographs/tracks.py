"""Follow faces from frame to frame, so that a restored video does not flicker.

A detector's landmarks tremble by a pixel or two, and with them the aligned square; a restoration
invents its details anew each time. Both are smoothed, the less, the more really moves.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import cv2
import numpy as np

from components.faces import align
from components.faces.landmarks import Landmarks
from components.images import Image
from components.photographs.finding import FoundFace

MAX_STEP = 0.5  # face widths that the same face moves at most between two frames
HOLD = 2  # frames for which a face that is not found is restored where it was
# A landmark that moved by d eye distances goes this share of the way: all of it from 0.08 on.
SLOWEST, GAIN = 0.35, 8.0
# Share of the frame before in a restoration where nothing has moved, and the change, in levels of
# 255, that makes it fall to a third.
BEFORE, TOLERANCE = 0.5, 8.0
CUT = 40  # mean difference of two frames, in levels, from which they are two scenes
_THUMBNAIL = (16, 16)
# Names of pictures in a state.
_THUMBNAIL_NAME, _SQUARE, _RESTORED = "thumbnail", "square-", "restored-"


@dataclass
class Track:
    """One face through a video."""

    number: int
    face: FoundFace
    missed: int = 0  # frames since it was found


@dataclass(frozen=True)
class FollowedFace:
    """A face of a frame with smoothed landmarks; those that are left as they are have no track."""

    face: FoundFace
    track: int | None


class Tracker:
    """Follow the faces of one video; frames are given in order."""

    def __init__(self) -> None:
        self._tracks: list[Track] = []
        self._num_tracks = 0
        self._thumbnail: Image | None = None

    def follow(self, frame: Image, faces: Sequence[FoundFace]) -> list[FollowedFace]:
        """Tell which face of this frame is which of those before; usable ones are smoothed."""
        if self._is_cut(frame):
            self._tracks = []
        found = [face for face in faces if face.reason is None]
        pairs = _pairs(self._tracks, found)
        for index, track in enumerate(self._tracks):
            if index in pairs:
                track.missed = 0
                track.face = _smoothed(track.face, found[pairs[index]])
            else:
                track.missed += 1
        self._tracks = [track for track in self._tracks if track.missed <= HOLD]
        for number, face in enumerate(found):
            if number not in pairs.values():
                self._num_tracks += 1
                self._tracks.append(Track(self._num_tracks, face))
        self._tracks.sort(key=lambda track: float(track.face.landmarks[:, 0].mean()))
        followed = [FollowedFace(track.face, track.number) for track in self._tracks]
        return followed + [FollowedFace(face, None) for face in faces if face.reason is not None]

    def _is_cut(self, frame: Image) -> bool:
        small = cv2.resize(frame, _THUMBNAIL, interpolation=cv2.INTER_AREA).astype(np.uint8)
        before, self._thumbnail = self._thumbnail, small
        if before is None:
            return False
        return float(np.abs(small.astype(np.float64) - before).mean()) > CUT

    def state(self) -> tuple[dict[str, Any], dict[str, Image]]:
        """Return what the next frame depends on, for `restore`: JSON, and pictures by name."""
        tracks = [
            {"number": track.number, "missed": track.missed, "face": _face_as_json(track.face)}
            for track in self._tracks
        ]
        said = {"num_tracks": self._num_tracks, "tracks": tracks}
        return said, {} if self._thumbnail is None else {_THUMBNAIL_NAME: self._thumbnail}

    def restore(self, said: Mapping[str, Any], pictures: Mapping[str, Image]) -> None:
        """Go on from a `state`."""
        self._num_tracks = said["num_tracks"]
        self._tracks = [
            Track(one["number"], _face_of_json(one["face"]), one["missed"])
            for one in said["tracks"]
        ]
        self._thumbnail = pictures.get(_THUMBNAIL_NAME)


class Blend:
    """Mix each restoration of a track with the one before, where its square has not changed."""

    def __init__(self) -> None:
        self._before: dict[int, tuple[Image, Image]] = {}

    def mix(self, track: int, square: Image, restored: Image) -> Image:
        """Give a frame's restoration, mixed; frames are given in order.

        Shape: square and restored, uint8 (size, size, 3), as a model takes and gives them.
        """
        if track in self._before:
            old_square, old = self._before[track]
            change = np.abs(square.astype(np.float32) - old_square).mean(axis=2)
            near = cv2.GaussianBlur(change, (0, 0), square.shape[0] / 64)
            share = (BEFORE * np.exp(-near / TOLERANCE))[..., None]
            restored = np.rint(restored + share * (old.astype(np.float32) - restored)).astype(
                np.uint8
            )
        self._before[track] = (square, restored)
        return restored

    def keep(self, tracks: Collection[int]) -> None:
        """Forget all other tracks: they have ended."""
        self._before = {track: pair for track, pair in self._before.items() if track in tracks}

    def state(self) -> dict[str, Image]:
        """Return what the next frame depends on, for `restore`: pictures by name."""
        state = {}
        for track, (square, restored) in self._before.items():
            state[f"{_SQUARE}{track}"], state[f"{_RESTORED}{track}"] = square, restored
        return state

    def restore(self, pictures: Mapping[str, Image]) -> None:
        """Go on from a `state`."""
        tracks = [int(n.removeprefix(_SQUARE)) for n in pictures if n.startswith(_SQUARE)]
        self._before = {
            track: (pictures[f"{_SQUARE}{track}"], pictures[f"{_RESTORED}{track}"])
            for track in tracks
        }


def _face_as_json(face: FoundFace) -> dict[str, Any]:
    said = {one.name: getattr(face, one.name) for one in fields(face) if one.name != "similarity"}
    return said | {"landmarks": face.landmarks.tolist()}


def _face_of_json(said: Mapping[str, Any]) -> FoundFace:
    landmarks = np.array(said["landmarks"])
    known = {**said, "landmarks": landmarks, "box": tuple(said["box"])}
    return FoundFace(**known, similarity=align.fit(landmarks))


def _pairs(tracks: Sequence[Track], found: Sequence[FoundFace]) -> dict[int, int]:
    """Pair tracks with found faces, by index: the nearest first, at most MAX_STEP apart."""
    apart = sorted(
        (_step(track.face, face), i, j)
        for i, track in enumerate(tracks)
        for j, face in enumerate(found)
    )
    pairs: dict[int, int] = {}
    for step, i, j in apart:
        if step <= MAX_STEP and i not in pairs and j not in pairs.values():
            pairs[i] = j
    return pairs


def _step(before: FoundFace, now: FoundFace) -> float:
    """Give how far apart two faces are, in widths of the larger one."""
    moved = np.linalg.norm(before.landmarks.mean(axis=0) - now.landmarks.mean(axis=0))
    return float(moved) / max(before.width or 1, now.width or 1)


def _smoothed(before: FoundFace, now: FoundFace) -> FoundFace:
    landmarks = smooth(before.landmarks, now.landmarks)
    return replace(now, landmarks=landmarks, similarity=align.fit(landmarks))


def smooth(before: Landmarks, now: Landmarks) -> Landmarks:
    """Move five landmarks (pixels) from where they were towards where they are found."""
    eyes = float(np.linalg.norm(now[1] - now[0]))
    moved = float(np.linalg.norm(now - before, axis=1).mean()) / eyes
    share = min(1.0, SLOWEST + GAIN * moved)
    return before + share * (now - before)
