"""Videos in and out, frame by frame, through the programs ffmpeg and ffprobe."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np

from components.images import Image
from components.photographs.photograph import MAX_PIXELS

READABLE = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi")
# Matroska holds any sound as it is; these two hold what comes out of them.
WRITABLE = (".mp4", ".mov")
OTHERWISE = ".mkv"

_CONSTANT_QUALITY = 16  # of x264; 18 is said to look like the original
_HIGH_DEFINITION = 720  # lines from which players take untagged colours for BT.709
# Without, its scaler truncates: all colours get darker by a level.
_EXACT = "flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"
_MATRICES = {"bt709": "bt709", "smpte170m": "bt601", "bt470bg": "bt601", "bt2020nc": "bt2020"}


class VideoError(ValueError):
    """A video that cannot be read or written; the message is the reason."""


@dataclass(frozen=True)
class VideoInfo:
    """The upright picture of a video, and how fast it runs."""

    width: int  # pixels
    height: int
    rate: Fraction  # frames a second
    num_frames: int | None  # about; None: the file does not say
    matrix: str  # of its colours, as ffmpeg's scaler calls it
    pixel_aspect: str  # width:height of a pixel


def require_ffmpeg() -> None:
    """Raise VideoError if ffmpeg or ffprobe is not installed."""
    missing = [name for name in ("ffmpeg", "ffprobe") if shutil.which(name) is None]
    if missing:
        raise VideoError(
            f"videos need {' and '.join(missing)}: install ffmpeg (Debian: apt-get install ffmpeg; "
            "macOS: brew install ffmpeg)"
        )


def probe(file: Path) -> VideoInfo:
    """Read what a video's header says. Raises: VideoError if it is none, or its frames too large.

    A video of changing frame rate is taken at its mean, so that sound and picture stay together.
    """
    require_ffmpeg()
    wanted = (
        "stream=width,height,avg_frame_rate,nb_frames,color_space,sample_aspect_ratio,duration"
        ":stream_side_data=rotation:format=duration"
    )
    arguments = ["-v", "error", "-select_streams", "v:0", "-show_entries", wanted, "-of", "json"]
    asked = subprocess.run(
        ["ffprobe", *arguments, f"file:{file}"], capture_output=True, text=True, check=False
    )
    found = json.loads(asked.stdout or "{}")
    if asked.returncode or not found.get("streams"):
        raise VideoError(f"no video: {_last_line(asked.stderr) or 'it has no picture'}")
    stream = found["streams"][0]
    rate = Fraction(stream["avg_frame_rate"]) if stream["avg_frame_rate"][:2] != "0/" else None
    if not rate:
        raise VideoError("no video: it does not say how fast its frames follow each other")
    width, height = stream["width"], stream["height"]
    if width * height > MAX_PIXELS:
        raise VideoError(f"too large: {width} x {height}, at most {MAX_PIXELS:,} pixels a frame")
    turn = next((side["rotation"] for side in stream.get("side_data_list", ()) if side), 0)
    if turn % 180:
        width, height = height, width
    return VideoInfo(
        width=width,
        height=height,
        rate=rate,
        num_frames=_num_frames(stream, found.get("format", {}), rate),
        matrix=_matrix(stream, height),
        pixel_aspect=stream.get("sample_aspect_ratio", "1:1"),
    )


def read_frames(file: Path, info: VideoInfo) -> Generator[Image, None, None]:
    """Decode frame after frame, upright RGB; close it to stop early.

    Raises: VideoError if none can be decoded.
    """
    filters = f"fps={info.rate},scale=in_color_matrix={info.matrix}:{_EXACT},format=rgb24"
    command = [*_quiet(), "-i", f"file:{file}", "-map", "0:v:0", "-vf", filters]
    num_bytes = info.width * info.height * 3
    with (
        tempfile.TemporaryFile() as told,
        subprocess.Popen(
            [*command, "-f", "rawvideo", "pipe:1"], stdout=subprocess.PIPE, stderr=told
        ) as decoder,
    ):
        assert decoder.stdout is not None
        num_frames = 0
        try:
            while len(data := decoder.stdout.read(num_bytes)) == num_bytes:
                num_frames += 1
                frame = np.frombuffer(data, dtype=np.uint8)
                yield frame.reshape(info.height, info.width, 3)
        finally:
            decoder.kill()  # also when nobody wants the rest
        if not num_frames:
            raise VideoError(f"no frame can be decoded: {_last_line(_text(told))}")


class VideoWriter:
    """Encode frames as H.264, beside the sound of another file, which is not encoded anew.

    Use it as a context: the file is whole when the context is left without an error.
    """

    def __init__(
        self, file: Path, *, width: int, height: int, like: VideoInfo, sound_of: Path
    ) -> None:
        self._file, self._shape = file, (height, width, 3)
        even = "pad=ceil(iw/2)*2:ceil(ih/2)*2"  # H.264 halves the resolution of colours
        colours = f"scale=out_color_matrix=bt709:out_range=tv:{_EXACT},format=yuv420p"
        aspect = like.pixel_aspect.replace(":", "/")
        filters = f"{even},{colours}" + (f",setsar={aspect}" if aspect[:2] != "0/" else "")
        bt709 = ("-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709")
        self._command = [
            *(*_quiet(), "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}"),
            *("-r", str(like.rate), "-i", "pipe:0", "-i", f"file:{sound_of}"),
            *("-map", "0:v:0", "-map", "1:a?", "-map_metadata", "1", "-c:a", "copy"),
            *("-c:v", "libx264", "-crf", str(_CONSTANT_QUALITY), "-vf", filters),
            *("-color_range", "tv", *bt709, "-movflags", "+faststart", "-y", f"file:{file}"),
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
        try:
            self._encoder.stdin.write(np.ascontiguousarray(frame).data)
        except BrokenPipeError as error:
            self._encoder.wait()
            raise VideoError(f"ffmpeg gave up: {_last_line(_text(self._told))}") from error

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
        told = _last_line(_text(self._told))
        self._told.close()
        if error is None and code:
            raise VideoError(f"ffmpeg cannot write {self._file.name}: {told}")


def _quiet() -> tuple[str, ...]:
    return "ffmpeg", "-v", "error", "-nostdin"


def _num_frames(stream: dict[str, Any], file: dict[str, Any], rate: Fraction) -> int | None:
    if "nb_frames" in stream:
        return int(stream["nb_frames"])
    seconds = stream.get("duration", file.get("duration"))
    return None if seconds is None else round(float(seconds) * rate)


def _matrix(stream: dict[str, Any], height: int) -> str:
    untagged = "bt709" if height >= _HIGH_DEFINITION else "bt601"
    return _MATRICES.get(stream.get("color_space", ""), untagged)


def _text(told: IO[bytes]) -> str:
    told.seek(0)
    return told.read().decode(errors="replace")


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2]
