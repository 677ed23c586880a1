"""What a video's file says about it: its picture, its colours, and what else it holds."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from components.photographs import tone_mapping
from components.photographs.ffmpeg import VideoError, require_ffmpeg
from components.photographs.photograph import MAX_PIXELS

_HIGH_DEFINITION = 720  # lines from which players take untagged colours for BT.709
_SAYS_NOTHING = ("", "unknown", "unspecified", "reserved")
# Of colours, as ffprobe and as ffmpeg's scaler call them; RGB needs none.
_MATRICES = {
    "bt709": "bt709",
    "smpte170m": "bt601",
    "bt470bg": "bt601",
    "bt2020nc": "bt2020",
    "fcc": "fcc",
    "smpte240m": "smpte240m",
    "gbr": "bt709",
}
_SDR = (
    *("bt709", "smpte170m", "bt470m", "bt470bg", "gamma22", "gamma28", "smpte240m"),
    *("iec61966-2-1", "iec61966-2-4", "bt1361e", "bt2020-10", "bt2020-12"),
)
_HDR: Mapping[str, tone_mapping.Transfer] = {
    "smpte2084": "smpte2084",
    "arib-std-b67": "arib-std-b67",
}
# Which field is shown first decides, not which is stored first.
_PARITIES: Mapping[str, Literal["tff", "bff"]] = {
    "tt": "tff",
    "bt": "tff",
    "bb": "bff",
    "tb": "bff",
}
# Names of pixel formats begin with these.
_TRANSPARENT = ("yuva", "gbrap", "rgba", "bgra", "argb", "abgr", "ayuv", "ya")
_FULL_COLOUR = ("yuv444", "yuvj444", "yuva444", "yuv422", "yuvj422", "yuva422", "gbr", "rgb", "bgr")


@dataclass(frozen=True)
class Hdr:
    """How a video's HDR colours are encoded."""

    transfer: tone_mapping.Transfer
    primaries: str  # a name of `tone_mapping.PRIMARIES`
    peak: float  # nits

    @property
    def name(self) -> str:
        """Return what people call it."""
        return "PQ" if self.transfer == "smpte2084" else "HLG"


@dataclass(frozen=True)
class Stream:
    """Sound, subtitles or whatever else lies beside the picture."""

    index: int  # in the file
    kind: str  # audio, subtitle, attachment, cover, video or data
    codec: str | None  # None: ffmpeg does not know it
    tag: str  # four letters of what is not known


@dataclass(frozen=True)
class VideoInfo:
    """The upright picture of a video, how fast it runs, and what lies beside it."""

    suffix: str  # that fits what kind of file it is: .mp4, .mov, .mkv, .avi, …
    width: int  # pixels
    height: int
    rate: Fraction  # frames a second
    num_frames: int | None  # about; None: the file does not say
    is_counted: bool  # the file says it of the picture itself, and not of its longest stream
    rate_changes: bool
    matrix: str  # of its colours, as ffmpeg's scaler calls it
    primaries: str  # of SDR colours, as ffmpeg calls them; kept
    transfer: str
    hdr: Hdr | None
    pixel_format: str
    pixel_aspect: str  # width:height of a pixel
    parity: Literal["tff", "bff"] | None  # of its fields; None: it is not interlaced
    others: tuple[Stream, ...]


def probe(file: Path) -> VideoInfo:
    """Read what a video's header says.

    A video of changing frame rate is taken at its mean, so that sound and picture stay together.

    Raises: VideoError if it is none, its frames are too large, or its colours are of a kind that
        would come out wrong.
    """
    require_ffmpeg()
    found = _ffprobe(file, "-show_streams", "-show_format")
    streams = found.get("streams", [])
    pictures = [one for one in streams if one.get("codec_type") == "video" and not _is_cover(one)]
    if not pictures:
        raise VideoError("no video: it has no picture")
    stream = pictures[0]
    rate = _rate(stream.get("avg_frame_rate", "0/0"))
    if not rate:
        raise VideoError("no video: it does not say how fast its frames follow each other")
    width, height = stream["width"], stream["height"]
    if width * height > MAX_PIXELS:
        raise VideoError(f"too large: {width} x {height}, at most {MAX_PIXELS:,} pixels a frame")
    if _turn(stream) % 180:
        width, height = height, width
    num_frames, is_counted = _num_frames(stream, found.get("format", {}), rate)
    hdr = _hdr(file, stream)
    return VideoInfo(
        suffix=_suffix(found.get("format", {})),
        width=width,
        height=height,
        rate=rate,
        num_frames=num_frames,
        is_counted=is_counted,
        rate_changes=_changes(stream, rate),
        matrix="bt2020" if hdr and _says(stream, "color_space") is None else _matrix(stream),
        primaries=_says(stream, "color_primaries") or "bt709",
        transfer=_says(stream, "color_transfer") or "bt709",
        hdr=hdr,
        pixel_format=stream.get("pix_fmt", ""),
        pixel_aspect=stream.get("sample_aspect_ratio", "1:1"),
        parity=_PARITIES.get(stream.get("field_order", "")),
        others=tuple(_other(one) for one in streams if one is not stream),
    )


def _ffprobe(file: Path, *wanted: str) -> dict[str, Any]:
    asked = subprocess.run(
        ["ffprobe", "-v", "error", *wanted, "-of", "json", f"file:{file}"],
        capture_output=True,
        check=False,
    )
    if asked.returncode:
        said = asked.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise VideoError(f"no video: {said or 'ffprobe cannot read it'}")
    found: dict[str, Any] = json.loads(asked.stdout.decode(errors="replace") or "{}")
    return found


def _suffix(file: Mapping[str, Any]) -> str:
    kinds = str(file.get("format_name", "")).split(",")
    if "mp4" in kinds:
        is_quicktime = str(file.get("tags", {}).get("major_brand", "")).startswith("qt")
        return ".mov" if is_quicktime else ".mp4"
    return ".mkv" if "matroska" in kinds else f".{kinds[0]}"


def _is_cover(stream: Mapping[str, Any]) -> bool:
    return bool(stream.get("disposition", {}).get("attached_pic"))


def _other(stream: Mapping[str, Any]) -> Stream:
    kind = "cover" if _is_cover(stream) else stream.get("codec_type", "data")
    codec = stream.get("codec_name")
    known = None if codec in (None, "none", "unknown") else codec
    return Stream(stream["index"], kind, known, stream.get("codec_tag_string", "unknown"))


def _rate(said: str) -> Fraction | None:
    above, _, below = said.partition("/")
    return Fraction(int(above), int(below)) if int(above) > 0 and int(below) > 0 else None


def _changes(stream: Mapping[str, Any], rate: Fraction) -> bool:
    """Say whether the mean rate is another than the one that fits all time stamps."""
    least = _rate(stream.get("r_frame_rate", "0/0"))
    # Interlaced video may say how fast its fields follow each other.
    return least is not None and all(abs(least / times - rate) > rate / 100 for times in (1, 2))


def _turn(stream: Mapping[str, Any]) -> int:
    """Return by how many degrees the picture is turned for showing it."""
    sides = stream.get("side_data_list", ())
    return next((int(side["rotation"]) for side in sides if "rotation" in side), 0)


def _num_frames(
    stream: Mapping[str, Any], file: Mapping[str, Any], rate: Fraction
) -> tuple[int | None, bool]:
    if "nb_frames" in stream:
        return int(stream["nb_frames"]), True
    if "DURATION" in (tags := stream.get("tags", {})):  # Matroska's
        hours, minutes, seconds = tags["DURATION"].split(":")
        length = 3600 * int(hours) + 60 * int(minutes) + float(seconds)
        return round(length * rate), length > 0
    seconds = stream.get("duration", file.get("duration"))
    return (None if seconds is None else round(float(seconds) * rate)), False


def _says(stream: Mapping[str, Any], key: str) -> str | None:
    said = str(stream.get(key, ""))
    return None if said in _SAYS_NOTHING else said


def _matrix(stream: Mapping[str, Any]) -> str:
    said = _says(stream, "color_space")
    if said is None:
        return "bt709" if stream["height"] >= _HIGH_DEFINITION else "bt601"
    if said not in _MATRICES:
        raise VideoError(f"colours in {said} are not known here: convert it to BT.709 first")
    return _MATRICES[said]


def _hdr(file: Path, stream: Mapping[str, Any]) -> Hdr | None:
    """Return how a video is HDR. Raises: VideoError if its colours would come out wrong."""
    sides = list(stream.get("side_data_list", ()))
    for side in sides:
        if "dv_profile" in side and side.get("dv_bl_signal_compatibility_id") == 0:
            raise VideoError(
                f"Dolby Vision of profile {side['dv_profile']} has colours of its own, which are "
                "not known here: convert it to HDR10, HLG or SDR first"
            )
    transfer = _says(stream, "color_transfer")
    if transfer is None or transfer in _SDR:
        return None
    if transfer not in _HDR:
        raise VideoError(
            f"its transfer function is {transfer}, neither SDR nor PQ nor HLG: convert it first"
        )
    primaries = _says(stream, "color_primaries") or "bt2020"
    if primaries not in tone_mapping.PRIMARIES:
        raise VideoError(
            f"HDR with primaries {primaries} cannot be tone-mapped here: convert it to SDR first"
        )
    is_pq = transfer == "smpte2084"
    peak = _peak(file, sides) if is_pq else tone_mapping.DEFAULT_PEAK
    return Hdr(_HDR[transfer], primaries, peak)


def _peak(file: Path, sides: list[dict[str, Any]]) -> float:
    """Return how bright PQ gets: its brightest pixel, else the display that it was made on."""
    first = ("-read_intervals", "%+#1", "-select_streams", "v", "-show_frames")
    for frame in _ffprobe(file, *first).get("frames", ()):
        sides = [*sides, *frame.get("side_data_list", ())]
    for key in ("max_content", "max_luminance"):
        said = [float(Fraction(side[key])) for side in sides if key in side]
        if said and 0 < said[0] <= 10_000:
            return said[0]
    return tone_mapping.DEFAULT_PEAK


def reductions(info: VideoInfo, left_out: Sequence[Stream]) -> list[str]:
    """Say what of a video does not come through a restoration, whatever codec it is written in."""
    said = []
    if info.hdr:
        said.append(f"HDR ({info.hdr.name}) was tone-mapped to SDR of 8 bits")
    elif (bits := _depth(info.pixel_format)) > 8:
        said.append(f"{bits} bits became 8")
    if info.pixel_format.startswith(_TRANSPARENT):
        said.append("transparency was left out")
    if info.pixel_format.startswith(_FULL_COLOUR):
        said.append("colours were halved in resolution")
    if info.parity:
        said.append("interlaced fields became whole frames")
    if info.rate_changes:
        said.append(f"the changing frame rate became {float(info.rate):.4g} a second")
    for kind in dict.fromkeys(stream.kind for stream in left_out):
        codecs = ", ".join(one.codec or one.tag for one in left_out if one.kind == kind)
        said.append(f"left out: {kind} ({codecs})")
    return said


def _depth(pixel_format: str) -> int:
    """Return the bits of a colour, from names such as yuv420p10le, p010le and rgb48be."""
    found = re.search(r"(\d{1,2})[lb]e$", pixel_format)
    bits = int(found[1]) if found else 8
    return bits if bits <= 16 else 16  # rgb48 and rgba64 count all colours
