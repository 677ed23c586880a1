"""Restore a video: its frames as photographs, its faces followed, its sound kept.

Frames are read, restored and written in small groups: memory does not grow with the video.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from components import images
from components.images import Image
from components.photographs import video
from components.photographs.face_restorer import RestoredFace
from components.photographs.options import RestoreOptions
from components.photographs.restoration import (
    PhotographRestorer,
    Prepared,
    cut_squares,
    find,
    finish,
    output_size,
)
from components.photographs.tracks import Blend, FollowedFace, Tracker

GROUP = 8  # frames whose faces are restored together


@dataclass
class TrackRecord:
    """What became of one face through the video."""

    first_frame: int  # counted from 0
    last_frame: int
    num_restored: int = 0  # frames
    angle: float | None = None  # degrees between the identities before and after, the mean so far
    flagged: bool = False  # in at least one frame


@dataclass(frozen=True)
class VideoRecord:
    """What became of a video, ready for JSON (`dataclasses.asdict`)."""

    width: int  # of the upright picture, pixels
    height: int
    output_width: int
    output_height: int
    model_size: int  # pixels of the square that the model restores a face at
    frames_per_second: float
    num_frames: int
    tracks: list[TrackRecord]  # one for each face that was followed
    num_restored: int  # faces, over all frames
    note: str | None  # said when there is nothing to restore


def restore_video(
    source: Path,
    target: Path,
    restorer: PhotographRestorer,
    options: RestoreOptions,
    *,
    on_frame: Callable[[], None],
) -> VideoRecord:
    """Restore the faces of a video.

    A face keeps its noise through the video, and is flagged by the mean of its angles so far.

    Args:
        source: a video that ffmpeg reads.
        target: the file to write, .mp4, .mov or .mkv.
        restorer: the model and what else it takes.
        options: those of photographs, for each frame.
        on_frame: called after each frame that is written.

    Raises: VideoError if it cannot be read or written; ValueError as `PhotographRestorer.check`.
    """
    restorer.check(options)
    info = video.probe(source)
    restoration = _VideoRestoration(restorer, options)
    width, height = output_size(info.width, info.height, options.scale)
    with (
        closing(video.read_frames(source, info)) as frames,
        video.VideoWriter(target, width=width, height=height, like=info, sound_of=source) as writer,
    ):
        while group := list(islice(frames, GROUP)):
            for frame in restoration.restore(group):
                writer.write(frame)
                on_frame()
    tracks = list(restoration.tracks.values())
    return VideoRecord(
        width=info.width,
        height=info.height,
        output_width=width,
        output_height=height,
        model_size=restorer.restorer.size,
        frames_per_second=float(info.rate),
        num_frames=restoration.num_frames,
        tracks=tracks,
        num_restored=sum(track.num_restored for track in tracks),
        note=None if tracks else "no face was restored",
    )


class _VideoRestoration:
    def __init__(self, restorer: PhotographRestorer, options: RestoreOptions) -> None:
        self._restorer, self._options = restorer, options
        self._tracker, self._blend = Tracker(), Blend()
        self.tracks: dict[int, TrackRecord] = {}
        self.num_frames = 0

    def restore(self, frames: Sequence[Image]) -> Iterator[Image]:
        """Restore the faces of some frames together, and give each frame."""
        size, options = self._restorer.restorer.size, self._options
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
        faces = find(frame, self._restorer.detector, self._options)
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
            self._options,
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
