"""Restore the frames of one video as photographs; each face is followed from frame to frame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice

from components import images
from components.images import Image
from components.photographs.face_restorer import RestoredFace
from components.photographs.options import RestoreOptions
from components.photographs.restoration import (
    PhotographRestorer,
    Prepared,
    cut_squares,
    find,
    finish,
)
from components.photographs.tracks import Blend, FollowedFace, Tracker
from components.photographs.video_parts import State


@dataclass
class TrackRecord:
    """What became of one face through the video."""

    first_frame: int  # counted from 0
    last_frame: int
    num_restored: int = 0  # frames
    angle: float | None = None  # degrees between the identities before and after, the mean so far
    flagged: bool = False  # in at least one frame


class VideoRestoration:
    """The frames of one video as restored photographs; they are given in order."""

    def __init__(
        self, restorer: PhotographRestorer, options: RestoreOptions, state: State | None = None
    ) -> None:
        self._restorer, self.options = restorer, options
        self._tracker, self._blend = Tracker(), Blend()
        self.tracks: dict[int, TrackRecord] = {}
        self.num_frames = 0
        if state is not None:
            self.num_frames = state.said["num_frames"]
            records = state.said["records"].items()
            self.tracks = {int(track): TrackRecord(**record) for track, record in records}
            self._tracker.restore(state.said["tracker"], state.pictures)
            self._blend.restore(state.pictures)

    @property
    def num_restored(self) -> int:
        """Return how many faces were restored so far, over all frames."""
        return sum(track.num_restored for track in self.tracks.values())

    def state(self) -> State:
        """Return what the next frame depends on."""
        tracker, thumbnail = self._tracker.state()
        records = {str(track): asdict(record) for track, record in self.tracks.items()}
        said = {"num_frames": self.num_frames, "records": records, "tracker": tracker}
        return State(said, thumbnail | self._blend.state())

    def restore(self, frames: Sequence[Image]) -> Iterator[Image]:
        """Restore the faces of some frames together, and give each frame."""
        size, options = self._restorer.restorer.size, self.options
        followed = [self._follow(frame) for frame in frames]
        prepared = []
        for frame, faces in zip(frames, followed, strict=True):
            found = [one.face for one in faces]
            prepared.append(Prepared(found, cut_squares(frame, found, options, size=size)))
        squares = [square for one in prepared for square in one.squares]
        tracks = [one.track for faces in followed for one in faces if one.track is not None]
        done = self._restorer.restorer.restore(
            squares,
            fidelity=options.fidelity,
            color_fix=options.color_fix,
            keys=[f"track {track}" for track in tracks],
            colorize=options.colorize,
        )
        restored = iter(zip(tracks, squares, done, strict=True))
        for frame, one in zip(frames, prepared, strict=True):
            yield self._finish(frame, one, list(islice(restored, len(one.squares))))
            self.num_frames += 1
        self._blend.keep(tracks)

    def _follow(self, frame: Image) -> list[FollowedFace]:
        faces = find(frame, self._restorer.detector, self.options)
        return self._tracker.follow(frame, faces)

    def _finish(
        self, frame: Image, prepared: Prepared, restored: Sequence[tuple[int, Image, RestoredFace]]
    ) -> Image:
        # A result that is not shown is no part of the next frame's either.
        blended = [
            self._blend.mix(track, square, square if face.problem else face.image)
            for track, square, face in restored
        ]
        records = [
            self.tracks.setdefault(track, TrackRecord(self.num_frames, self.num_frames))
            for track, _, _ in restored
        ]
        angles = self._angles(prepared.squares, blended, records)
        canvas, record = finish(
            frame,
            prepared,
            blended,
            self.options,
            size=self._restorer.restorer.size,
            problems=[face.problem for _, _, face in restored],
            angles=angles,
            upscale=self._restorer.upscale,
        )
        usable = [
            said
            for said, face in zip(record.faces, prepared.faces, strict=True)
            if face.reason is None
        ]
        for track, said in zip(records, usable, strict=True):
            track.last_frame = self.num_frames
            track.num_restored += said.restored
            track.flagged |= said.flagged
        return canvas

    def _angles(
        self, before: Sequence[Image], after: Sequence[Image], tracks: Sequence[TrackRecord]
    ) -> list[float] | None:
        if self._restorer.angle is None:
            return None
        if not before:
            return []
        angles = self._restorer.angle(images.to_tensor(after), images.to_tensor(before)).tolist()
        for track, angle in zip(tracks, angles, strict=True):
            age = self.num_frames - track.first_frame
            mean = angle if track.angle is None else track.angle
            track.angle = mean + (angle - mean) / (age + 1)
        return [track.angle for track in tracks if track.angle is not None]
