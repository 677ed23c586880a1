"""Restore a video: its frames as photographs, its faces followed, its sound kept.

Frames are read, restored and written in small groups: memory does not grow with the video.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from components.photographs.options import RestoreOptions
from components.photographs.restoration import PhotographRestorer, output_size
from components.photographs.video import (
    FrameReader,
    VideoWriter,
    check,
    join,
    left_out,
)
from components.photographs.video_encoders import Encoding
from components.photographs.video_frames import TrackRecord, VideoRestoration
from components.photographs.video_info import VideoInfo, probe, reductions
from components.photographs.video_parts import Parts

log = logging.getLogger(__name__)

GROUP = 8  # frames whose faces are restored together
# Frames of a part: a kill loses no more. Encoders set a key frame after about as many anyway.
PART = 30 * GROUP
_TOLERANCE = 2  # frames that a whole film may have less than its header says


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
        result, notes = _write_result(source, target, info, parts, restoration, made_as)
    except BaseException:
        if not parts.num_frames:  # there is nothing to go on from
            parts.remove()
        raise
    parts.remove()
    notes += _missing(info, restoration.num_frames, complaint)
    if not restoration.num_restored:
        notes.insert(0, "no face was restored")
    return result, VideoRecord(
        width=info.width,
        height=info.height,
        output_width=width,
        output_height=height,
        model_size=restorer.restorer.size,
        frames_per_second=float(info.rate),
        num_frames=restoration.num_frames,
        tracks=list(restoration.tracks.values()),
        num_restored=restoration.num_restored,
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


def _write_result(
    source: Path,
    target: Path,
    info: VideoInfo,
    parts: Parts,
    restoration: VideoRestoration,
    encoding: Encoding,
) -> tuple[Path, list[str]]:
    """Write the finished file; return it, and what of the video was reduced."""
    options = restoration.options
    is_unchanged = not restoration.num_restored and options.scale == 1 and encoding.is_default
    result = result_files(source, target)[-1] if is_unchanged else target
    finished = parts.folder / f"finished{result.suffix}"
    notes: list[str] = []
    if is_unchanged and result.suffix == source.suffix:
        shutil.copyfile(source, finished)
    else:
        join(parts.finished, finished, source=source, like=info, encoding=encoding)
        width, height = output_size(info.width, info.height, options.scale)
        notes = reductions(info, left_out(info, target.suffix)) + _padded(width, height)
    finished.replace(result)
    return result, notes


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
