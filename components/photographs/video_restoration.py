"""Restore a video: its frames as photographs, its faces followed, its sound kept.

Frames are read, restored and written in small groups: memory does not grow with the video.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

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
    output_size,
)
from components.photographs.tracks import Blend, FollowedFace, Tracker
from components.photographs.video import (
    FrameReader,
    VideoWriter,
    check,
    join,
    left_out,
)
from components.photographs.video_encoders import Encoding
from components.photographs.video_info import VideoInfo, probe, reductions
from components.photographs.video_parts import Parts, State

log = logging.getLogger(__name__)

GROUP = 8  # frames whose faces are restored together
# Frames of a part: a kill loses no more. Encoders set a key frame after about as many anyway.
PART = 30 * GROUP
_TOLERANCE = 2  # frames that a whole film may have less than its header says


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
    note: str | None  # that nothing was restored, or what of the video was reduced


def restore_video(
    source: Path,
    target: Path,
    restorer: PhotographRestorer,
    options: RestoreOptions,
    *,
    encoding: Encoding | None = None,
    on_frame: Callable[[], None],
) -> tuple[Path, VideoRecord]:
    """Restore the faces of a video.

    A face keeps its noise through the video, and is flagged by the mean of its angles so far. A
    video in which nothing is restored, and of which nothing else is asked, keeps its bytes. After
    a kill, the same call goes on where it was, but for the part that was not finished.

    Args:
        source: a video that ffmpeg reads.
        target: the file to write, .mp4, .mov or .mkv; it appears as a whole.
        restorer: the model and what else it takes.
        options: those of photographs, for each frame.
        encoding: how the result is encoded; H.264 unless given.
        on_frame: called for each frame that is finished, also by an earlier call.

    Returns: the file, one of `result_files`, and the record.

    Raises: VideoError if it cannot be read or written; ValueError as `PhotographRestorer.check`.
    """
    restorer.check(options)
    made_as = encoding or Encoding()
    info = probe(source)
    width, height = output_size(info.width, info.height, options.scale)
    target.parent.mkdir(parents=True, exist_ok=True)
    check(source, target, width=width, height=height, like=info, encoding=made_as)
    parts = Parts(target, _work(source, restorer, options, made_as))
    restoration = VideoRestoration(restorer, options, parts.state)
    try:
        complaint = _restore_parts(source, info, parts, restoration, made_as, on_frame)
        tracks = list(restoration.tracks.values())
        is_unchanged = not any(track.num_restored for track in tracks)
        result = target
        if is_unchanged and options.scale == 1 and made_as.is_default:
            result = result_files(source, target)[-1]
            is_copied = result.suffix == source.suffix
        else:
            is_copied = False
        finished = parts.folder / f"finished{result.suffix}"
        if is_copied:
            shutil.copyfile(source, finished)
            notes = []
        else:
            join(parts.finished, finished, source=source, like=info, encoding=made_as)
            notes = reductions(info, left_out(info, target.suffix)) + _padded(width, height)
        finished.replace(result)
    except BaseException:
        if not parts.num_frames:  # there is nothing to go on from
            parts.remove()
        raise
    parts.remove()
    notes += _missing(info, restoration.num_frames, complaint)
    if is_unchanged:
        notes.insert(0, "no face was restored")
    return result, VideoRecord(
        width=info.width,
        height=info.height,
        output_width=width,
        output_height=height,
        model_size=restorer.restorer.size,
        frames_per_second=float(info.rate),
        num_frames=restoration.num_frames,
        tracks=tracks,
        num_restored=sum(track.num_restored for track in tracks),
        note="; ".join(notes) or None,
    )


def result_files(source: Path, target: Path) -> list[Path]:
    """Return where a video's result may be: in the target, or unchanged under its own suffix."""
    kept = target.with_suffix(source.suffix)
    is_source = kept.exists() and kept.samefile(source)
    return [target] if is_source or kept == target else [target, kept]


def _restore_parts(
    source: Path,
    info: VideoInfo,
    parts: Parts,
    restoration: VideoRestoration,
    encoding: Encoding,
    on_frame: Callable[[], None],
) -> str | None:
    """Restore what is not finished, part after part, and return what ffmpeg said while reading."""
    width, height = output_size(info.width, info.height, restoration.options.scale)
    if parts.num_frames:
        log.info("%s goes on after frame %d", source.name, parts.num_frames)
    for _ in range(parts.num_frames):
        on_frame()
    with FrameReader(source, info, start=parts.num_frames) as reader:
        frames = iter(reader)
        while group := list(islice(frames, GROUP)):
            before = restoration.num_frames
            with VideoWriter(
                parts.next_file, width=width, height=height, like=info, encoding=encoding
            ) as writer:
                while group:
                    for frame in restoration.restore(group):
                        writer.write(frame)
                        on_frame()
                    full = restoration.num_frames - before >= PART
                    group = [] if full else list(islice(frames, GROUP))
            parts.add(restoration.num_frames - before, restoration.state())
    return reader.complaint


def _work(
    source: Path, restorer: PhotographRestorer, options: RestoreOptions, encoding: Encoding
) -> dict[str, Any]:
    """Return all that a result depends on."""
    about = source.stat()
    return {
        "source": [str(source.absolute()), about.st_size, about.st_mtime_ns],
        "model": restorer.restorer.fingerprint,
        "tools": restorer.tools,
        "options": options.model_dump(mode="json"),
        "encoding": asdict(encoding),
    }


def _padded(width: int, height: int) -> list[str]:
    """Say that a picture was enlarged, since colours of half resolution need even sizes."""
    even = width + width % 2, height + height % 2
    if even == (width, height):
        return []
    return [f"{width} x {height} was padded to {even[0]} x {even[1]}: the codec needs even sizes"]


def _missing(info: VideoInfo, num_frames: int, complaint: str | None) -> list[str]:
    """Say that a film ends early or is damaged."""
    if complaint is None:  # fewer frames than counted: those before a trimmed film's beginning
        return []
    if info.num_frames and info.is_counted and info.num_frames - num_frames > _TOLERANCE:
        ends, length = (float(frames / info.rate) for frames in (num_frames, info.num_frames))
        return [f"the film is cut off: it ends after {ends:.1f} of {length:.1f} s"]
    return [f"the film is damaged: ffmpeg says '{complaint}'"]


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
