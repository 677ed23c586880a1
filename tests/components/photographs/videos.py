"""Small videos, made with ffmpeg; tests that need it are skipped where it is missing."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from components.images import Image
from components.photographs.video import FrameReader
from components.photographs.video_info import probe

needs_ffmpeg = pytest.mark.skipif(
    not (shutil.which("ffmpeg") and shutil.which("ffprobe")), reason="needs ffmpeg"
)


def make_video(file: Path, frames: list[Image], *, sound: bool = True, rate: int = 10) -> Path:
    """Encode frames without loss of resolution, with a tone of their length."""
    height, width = frames[0].shape[:2]
    tone = ["-f", "lavfi", "-i", f"sine=frequency=440:duration={len(frames) / rate}"]
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(rate)]
    codec = ["-c:v", "libx264", "-crf", "8", "-pix_fmt", "yuv444p"]
    colours = ["-vf", "scale=out_color_matrix=bt601:flags=accurate_rnd"]
    subprocess.run(
        [
            *("ffmpeg", "-v", "error", *raw, "-i", "pipe:0", *(tone if sound else [])),
            *(*codec, *colours, *(["-c:a", "aac"] if sound else []), "-y", str(file)),
        ],
        input=np.stack(frames).tobytes(),
        check=True,
    )
    return file


def run_ffmpeg(*words: str | Path, given: bytes | None = None) -> None:
    """Run ffmpeg quietly; files are overwritten."""
    command = ["ffmpeg", "-v", "error", "-y", *map(str, words)]
    subprocess.run(command, input=given or b"", check=True)


def decoded(file: Path) -> list[Image]:
    with FrameReader(file, probe(file)) as reader:
        return list(reader)
