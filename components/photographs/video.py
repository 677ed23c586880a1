"""Videos in and out, frame by frame, through the program ffmpeg."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from components.images import Image
from components.photographs import tone_mapping
from components.photographs.ffmpeg import EXACT, QUIET, VideoError, last_line
from components.photographs.video_encoders import Encoding
from components.photographs.video_info import Stream, VideoInfo

READABLE = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi")
# Matroska holds any sound as it is; these two hold what comes out of them.
WRITABLE = (".mp4", ".mov")
OTHERWISE = ".mkv"

_TABLE = "colours.cube"
# Subtitles that a container holds, and how they get in.
_SUBTITLES = {
    ".mkv": {
        **dict.fromkeys(("subrip", "ass", "webvtt", "dvd_subtitle", "dvb_subtitle"), "copy"),
        **dict.fromkeys(("hdmv_pgs_subtitle", "hdmv_text_subtitle"), "copy"),
        "mov_text": "srt",
    },
    ".mp4": {"mov_text": "copy", "dvd_subtitle": "copy"},
    ".mov": {"mov_text": "copy"},
}


class FrameReader:
    """Decode frame after frame, upright SDR, uint8 (H, W, 3) RGB; use it as a context.

    The first frame is that of the time 0, where the sound starts as well, and each next one is
    1 / `info.rate` s later: frames are repeated or left out for it.
    """

    def __init__(self, file: Path, info: VideoInfo, *, start: int = 0) -> None:
        """Read a file from its frame `start` on."""
        self._file, self._info, self._start = file.absolute(), info, start
        self.num_frames = start  # so far
        self.complaint: str | None = None  # what ffmpeg said, known when the last frame is read

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory()
        self._told = tempfile.TemporaryFile()
        command = [*QUIET, "-i", f"file:{self._file}", "-map", "0:V:0", "-vf", self._filters()]
        self._decoder = subprocess.Popen(
            [*command, "-f", "rawvideo", "pipe:1"],
            stdout=subprocess.PIPE,
            stderr=self._told,
            cwd=self._folder.name,  # a path within a filter would need to be escaped twice
        )
        return self

    def __iter__(self) -> Iterator[Image]:
        """Give the frames. Raises: VideoError if none can be decoded."""
        assert self._decoder.stdout is not None
        num_bytes = self._info.width * self._info.height * 3
        while len(data := self._decoder.stdout.read(num_bytes)) == num_bytes:
            self.num_frames += 1
            frame = np.frombuffer(data, dtype=np.uint8)
            yield frame.reshape(self._info.height, self._info.width, 3)
        self._decoder.wait()
        self.complaint = last_line(self._told) or None
        if not self.num_frames:
            raise VideoError(f"no frame can be decoded: {self.complaint}")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._decoder.kill()  # also when nobody wants the rest
        self._decoder.communicate()
        self._told.close()
        self._folder.cleanup()

    def _filters(self) -> str:
        info = self._info
        # Sound begins at 0. Without any, a file that says a later time (AVI has no times of frames)
        # begins with its first frame.
        has_sound = any(other.kind == "audio" for other in info.others)
        filters = [f"fps={info.rate}{':start_time=0' if has_sound else ''}"]
        if info.parity:
            filters.insert(0, f"bwdif=mode=send_frame:parity={info.parity}:deint=all")
        if self._start:
            # Else ffmpeg would fill the time before with frames.
            filters.append(f"trim=start_frame={self._start},setpts=PTS-STARTPTS")
        filters.append(f"scale=in_color_matrix={info.matrix}:{EXACT}")
        if info.hdr:
            tone_mapping.write_table(
                Path(self._folder.name, _TABLE),
                info.hdr.transfer,
                primaries=info.hdr.primaries,
                peak=info.hdr.peak,
            )
            table = f"lut3d=file={_TABLE}:interp=tetrahedral"
            filters += ["format=gbrp16le", table, f"scale={EXACT}"]
        return ",".join([*filters, "format=rgb24"])


class VideoWriter:
    """Encode frames as a video without sound; use it as a context.

    The file, of any name that ends in .nut, is whole when the context is left without an error.
    """

    def __init__(
        self, file: Path, *, width: int, height: int, like: VideoInfo, encoding: Encoding
    ) -> None:
        """Write frames of `width` x `height`; odd sizes get one more column or row."""
        self._file, self._shape = file, (height, width, 3)
        self._padding = ((0, height % 2), (0, width % 2), (0, 0))
        self._command = [
            *(*QUIET, *encoding.before_inputs(), "-f", "rawvideo", "-pix_fmt", "rgb24"),
            *("-s", f"{_even(width)}x{_even(height)}", "-r", str(like.rate), "-i", "pipe:0"),
            *_colours(like, encoding.filters),
            *encoding.arguments(),
            *("-f", "nut", "-y", f"file:{file}"),  # holds times exactly, which Matroska does not
        ]

    def __enter__(self) -> Self:
        self._told = tempfile.TemporaryFile()
        self._encoder = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=self._told
        )
        return self

    def write(self, frame: Image) -> None:
        """Add a frame, uint8 (H, W, 3) RGB. Raises: VideoError if ffmpeg has given up."""
        if frame.shape != self._shape:
            raise ValueError(f"a frame of {frame.shape} in a video of {self._shape}")
        assert self._encoder.stdin is not None
        padded = np.pad(frame, self._padding, mode="edge")
        try:
            self._encoder.stdin.write(np.ascontiguousarray(padded).data)
        except BrokenPipeError as error:
            self._encoder.wait()
            raise VideoError(f"ffmpeg gave up: {last_line(self._told)}") from error

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self._encoder.kill()
        assert self._encoder.stdin is not None
        with suppress(BrokenPipeError):
            self._encoder.stdin.close()
        code = self._encoder.wait()
        told = last_line(self._told)
        self._told.close()
        if error is None and code:
            raise VideoError(f"ffmpeg cannot write {self._file.name}: {told}")


def check(
    source: Path,
    target: Path,
    *,
    width: int,
    height: int,
    like: VideoInfo,
    encoding: Encoding,
) -> None:
    """Write a black frame and what lies beside it: what fails after hours would fail now.

    Raises: VideoError if this ffmpeg or this machine does not have the encoder, or the kind of
        file does not hold its videos, or what comes with them.
    """
    with tempfile.TemporaryDirectory() as folder:
        part, tried = Path(folder, "black.nut"), Path(folder, f"black{target.suffix}")
        try:
            with VideoWriter(
                part, width=width, height=height, like=like, encoding=encoding
            ) as writer:
                writer.write(np.zeros((height, width, 3), dtype=np.uint8))
            join([(part, 1)], tried, source=source, like=like, encoding=encoding, seconds=1)
        except VideoError as error:
            raise VideoError(
                f"{encoding.codec} in {target.suffix} does not work here ({error}): choose "
                "another --codec; 'ffmpeg -encoders' lists those that are installed"
            ) from error


def join(
    parts: Sequence[tuple[Path, int]],
    target: Path,
    *,
    source: Path,
    like: VideoInfo,
    encoding: Encoding,
    seconds: float | None = None,
) -> None:
    """Put the parts of a video one behind the other, beside what else its source holds.

    Nothing is encoded anew.

    Args:
        parts: files that `VideoWriter` made, each with its number of frames.
        target: the file to write.
        source: where sound, subtitles and metadata come from.
        like: what it says.
        encoding: that of the parts.
        seconds: of the result at most.

    Raises: VideoError if ffmpeg cannot write it.
    """
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder, "parts.txt")
        # The times of the parts' own headers are a frame too long, or too short.
        lines = [
            f"file '{str(part.absolute()).replace(chr(39), _QUOTE)}'\n"
            f"duration {float(num_frames / like.rate):.6f}\n"
            for part, num_frames in parts
        ]
        listed.write_text("".join(lines))
        command = [
            *(*QUIET, "-f", "concat", "-safe", "0", "-i", str(listed), "-i", f"file:{source}"),
            *("-map", "0:v:0", *_beside(like, target.suffix)),
            *("-map_metadata", "1", "-map_chapters", "1", *encoding.tags(target.suffix)),
            *(() if seconds is None else ("-t", str(seconds))),
            *("-movflags", "+faststart", "-y", f"file:{target}"),
        ]
        joined = subprocess.run(command, capture_output=True, check=False)
    if joined.returncode:
        said = joined.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise VideoError(f"ffmpeg cannot write {target.name}: {said}")


_QUOTE = r"'\''"  # as in a shell: end, an escaped quote, begin again


def left_out(info: VideoInfo, suffix: str) -> list[Stream]:
    """Return what lies beside a picture and cannot get into a file of this suffix."""
    return [one for one in info.others if _way_in(one, suffix) is None]


def _beside(info: VideoInfo, suffix: str) -> list[str]:
    """Return ffmpeg's arguments for what lies beside the picture, in its order."""
    arguments = ["-c", "copy"]
    num_subtitles, num_videos = 0, 1
    for stream in info.others:
        way = _way_in(stream, suffix)
        if way is None:
            continue
        arguments += ["-map", f"1:{stream.index}"]
        if stream.kind == "subtitle":
            arguments += [f"-c:s:{num_subtitles}", way]
            num_subtitles += 1
        if stream.kind == "cover":
            arguments += [f"-disposition:v:{num_videos}", "attached_pic"]
            num_videos += 1
    return arguments


def _way_in(stream: Stream, suffix: str) -> str | None:
    """Say whether a stream is copied or turned into another codec; None: there is no way."""
    suffix = suffix.lower()
    if stream.codec is None:
        return "copy" if stream.kind == "attachment" and suffix == OTHERWISE else None
    if stream.kind == "audio":
        return "copy"
    if stream.kind == "subtitle":
        return _SUBTITLES[suffix].get(stream.codec)
    if stream.kind == "cover":
        return "copy" if suffix in WRITABLE else None
    return "copy" if stream.kind == "attachment" and suffix == OTHERWISE else None


def _colours(like: VideoInfo, last_filter: str) -> tuple[str, ...]:
    """Return ffmpeg's arguments that make of RGB what an encoder takes, and name its colours."""
    primaries, transfer = ("bt709", "bt709") if like.hdr else (like.primaries, like.transfer)
    matrix, scaled = ("bt2020nc", "bt2020") if primaries == "bt2020" else ("bt709", "bt709")
    aspect = like.pixel_aspect.replace(":", "/")
    shape = f",setsar={aspect}" if aspect[:2] != "0/" else ""
    return (
        *("-vf", f"scale=out_color_matrix={scaled}:out_range=tv:{EXACT}{shape},{last_filter}"),
        *("-color_range", "tv", "-colorspace", matrix),
        *("-color_primaries", primaries, "-color_trc", transfer),
    )


def _even(size: int) -> int:
    return size + size % 2
