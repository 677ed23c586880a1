"""The programs ffmpeg and ffprobe: whether they are there, and what they said."""

import re
import shutil
from typing import IO

# `-nostdin`: ffmpeg would read the terminal's keys.
QUIET = ("ffmpeg", "-v", "error", "-nostdin")
# Without these, ffmpeg's scaler truncates: all colours get darker by a level.
EXACT = "flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"


class VideoError(ValueError):
    """A video that cannot be read or written; the message is the reason."""


def require_ffmpeg() -> None:
    """Raise VideoError if ffmpeg or ffprobe is not installed."""
    missing = [name for name in ("ffmpeg", "ffprobe") if shutil.which(name) is None]
    if missing:
        raise VideoError(
            f"videos need {' and '.join(missing)}: install ffmpeg (Debian: apt-get install ffmpeg; "
            "macOS: brew install ffmpeg)"
        )


def last_line(told: IO[bytes]) -> str:
    """Return the last line that a program wrote into a file that is still open."""
    told.seek(0)
    line = told.read().decode(errors="replace").strip().rpartition("\n")[2]
    return re.sub(r"^\[[^]]* @ [^]]*\] ", "", line)  # which part of ffmpeg, at which address
