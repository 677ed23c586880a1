"""The encoders of ffmpeg that videos can be written with, by their names there.

Each has its own word for a constant quality; here it is `crf`: the lower, the better and larger.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

DEFAULT = "libx264"
WORST_QUALITY = 63
_VAAPI_DEVICE = "/dev/dri/renderD128"


def _crf(quality: int) -> tuple[str, ...]:
    return "-crf", str(quality)


def _crf_alone(quality: int) -> tuple[str, ...]:
    return "-crf", str(quality), "-b:v", "0"  # else it is a limit to their default bit rate


def _nvenc(quality: int) -> tuple[str, ...]:
    return "-rc", "vbr", "-cq", str(quality), "-b:v", "0"


def _qsv(quality: int) -> tuple[str, ...]:
    return "-global_quality", str(quality)


def _amf(quality: int) -> tuple[str, ...]:
    return "-rc", "cqp", "-qp_i", str(quality), "-qp_p", str(quality)


def _vaapi(quality: int) -> tuple[str, ...]:
    return "-rc_mode", "CQP", "-global_quality", str(quality)


def _videotoolbox(quality: int) -> tuple[str, ...]:
    return "-q:v", str(round(100 - quality * 99 / 51))  # from 100, the best, to 1


@dataclass(frozen=True)
class _Encoder:
    quality: Callable[[int], tuple[str, ...]]
    default: int  # said, or seen, to look like the original
    worst: int = 51


_SOFTWARE = {
    "libx264": _Encoder(_crf, 16),  # 18 is said to look like the original
    "libx265": _Encoder(_crf, 18),
    "libsvtav1": _Encoder(_crf, 22, WORST_QUALITY),
    "libaom-av1": _Encoder(_crf_alone, 20, WORST_QUALITY),
    "libvpx-vp9": _Encoder(_crf_alone, 20, WORST_QUALITY),
}
_HARDWARE = {
    "nvenc": _Encoder(_nvenc, 19),
    "qsv": _Encoder(_qsv, 19),
    "amf": _Encoder(_amf, 19),
    "vaapi": _Encoder(_vaapi, 19),
    "videotoolbox": _Encoder(_videotoolbox, 18),
}
ENCODERS: Mapping[str, _Encoder] = {
    **_SOFTWARE,
    **{
        f"{codec}_{maker}": encoder
        for maker, encoder in _HARDWARE.items()
        for codec in ("h264", "hevc", "av1")
    },
}


@dataclass(frozen=True)
class Encoding:
    """An encoder and its quality; None is the encoder's own default."""

    codec: str = DEFAULT
    crf: int | None = None

    @property
    def is_default(self) -> bool:
        """Say whether nobody has asked for anything."""
        return self == Encoding()

    @property
    def filters(self) -> str:
        """Return what comes last of the filters."""
        return "format=nv12,hwupload" if self.codec.endswith("_vaapi") else "format=yuv420p"

    def before_inputs(self) -> tuple[str, ...]:
        """Return ffmpeg's arguments for the device."""
        return ("-vaapi_device", _VAAPI_DEVICE) if self.codec.endswith("_vaapi") else ()

    def arguments(self) -> tuple[str, ...]:
        """Return ffmpeg's arguments for the encoder."""
        encoder = ENCODERS[self.codec]
        quality = encoder.quality(encoder.default if self.crf is None else self.crf)
        quiet = ("-x265-params", "log-level=error") if self.codec == "libx265" else ()
        return ("-c:v", self.codec, *quality, *quiet)

    def tags(self, suffix: str) -> tuple[str, ...]:
        """Return ffmpeg's arguments for the container: Apple plays HEVC only under this name."""
        is_hevc = self.codec == "libx265" or self.codec.startswith("hevc")
        return ("-tag:v", "hvc1") if is_hevc and suffix.lower() in (".mp4", ".mov") else ()


def check(codec: str, crf: int | None) -> None:
    """Raise ValueError if there is no such encoder here, or it has no such quality."""
    if codec not in ENCODERS:
        raise ValueError(f"{codec} is none of {', '.join(ENCODERS)}")
    if crf is not None and crf > ENCODERS[codec].worst:
        raise ValueError(f"crf = {crf}: {codec} takes 0 to {ENCODERS[codec].worst}")
