"""What can be asked of a restoration: one schema for the command line, HTTP requests and the page.

Each field's description is the help text of all three. This module imports no numerical library:
`hdrface restore --help` reads it.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from components.backbones.color_fix import ColorFix
from components.params import Params
from components.photographs.video_encoders import DEFAULT as DEFAULT_ENCODER
from components.photographs.video_encoders import WORST_QUALITY, Encoding
from components.photographs.video_encoders import check as check_encoder
from components.restorers.choice import Choice
from components.weights.precision import InferencePrecision

FileFormat = Literal["jpeg", "png", "webp"]
DEFAULT_QUALITY = 95  # where a file has none to keep
# Degrees. See docs/decisions/0025-faces.md for what it was chosen by.
GUARD_ANGLE = 80.0


class RestoreOptions(Params):
    """How the faces of a photograph or a video are restored."""

    aligned: bool = Field(
        False,
        description="The picture is one aligned face (as in FFHQ): do not search for faces.",
    )
    only_center_face: bool = Field(
        False, description="Restore only the face nearest to the centre of the picture."
    )
    min_face: int = Field(
        16, ge=1, description="Do not restore faces that are narrower than this, in pixels."
    )
    # METHOD, section 4.
    fidelity: float | None = Field(
        None,
        ge=0,
        le=1,
        description="How closely the result follows the input. Only models on Qwen-Image (1 by "
        "default) and CodeFormer (0.5) accept values below 1: the lower the value, the more "
        "details are invented.",
    )
    # METHOD, section 4: the paper chooses by backbone.
    color_fix: ColorFix | None = Field(
        None,
        description="How to correct the colours of a restored face. By default, the model decides.",
    )
    colorize: bool = Field(
        False,
        description="Let the model colour the faces of grey and toned pictures. By default, they "
        "keep the toning of the picture.",
    )
    scale: float = Field(1.0, ge=1, le=4, description="Enlarge the whole picture by this factor.")
    max_angle: float | None = Field(
        None,
        gt=0,
        le=180,
        description="Flag a face if restoring turns its identity by more than this angle, in "
        f"degrees. This needs an identity network; with one, the default is {GUARD_ANGLE:g}, and "
        "180 flags none.",
    )
    leave_flagged: bool = Field(True, description="Do not change flagged faces.")


class FileOptions(Params):
    """How a restored photograph is written."""

    format: FileFormat | None = Field(
        None,
        description="File format of the result. By default, the format of the input, or PNG if "
        "that one cannot be written.",
    )
    quality: int | None = Field(
        None,
        ge=1,
        le=100,
        description="Quality of JPEG and WebP. By default, a JPEG keeps its quantisation tables "
        "and subsampling, a lossless WebP stays lossless, and all else is written with 95.",
    )
    strip_metadata: bool = Field(
        False,
        description="Write no metadata: no EXIF, XMP, IPTC, comment or text. Colour profiles stay.",
    )


class OutputOptions(FileOptions):
    """How the results of many files are written."""

    skip_existing: bool = Field(
        False,
        description="Skip an input if a file for its result already exists: go on with a run that "
        "was stopped.",
    )
    workers: int = Field(
        1, ge=1, description="Number of processes that restore files; each loads the model."
    )
    page: bool = Field(
        False,
        description="Write page.html into the folder: each photograph and face, before and after.",
    )
    codec: str = Field(
        DEFAULT_ENCODER,
        description="Encoder of videos, as ffmpeg calls it: libx264, libx265, libsvtav1, "
        "libaom-av1, libvpx-vp9, or hardware's h264_, hevc_ and av1_ with nvenc, qsv, amf, vaapi "
        "or videotoolbox.",
    )
    crf: int | None = Field(
        None,
        ge=0,
        le=WORST_QUALITY,
        description="Quality of videos: the lower, the better and larger. By default, a value at "
        "which the encoder's videos look like the original (libx264: 16).",
    )

    @field_validator("codec")
    @classmethod
    def _is_known(cls, codec: str) -> str:
        check_encoder(codec, None)
        return codec

    @field_validator("crf")
    @classmethod
    def _fits(cls, crf: int | None, info: ValidationInfo) -> int | None:
        if "codec" in info.data:
            check_encoder(info.data["codec"], crf)
        return crf

    @property
    def encoding(self) -> Encoding:
        """Return how videos are encoded."""
        return Encoding(self.codec, self.crf)


class Tools(Params):
    """The networks beside the model, and how many faces they work on at once."""

    detector: Path | None = Field(
        None, description="ONNX file of the face detector: SCRFD or YuNet."
    )
    upscaler: Path | None = Field(
        None,
        description="Checkpoint of a super-resolution network that enlarges the background. By "
        "default, Lanczos is used.",
    )
    identity_network: Path | None = Field(
        None,
        description="ONNX file of the network that measures identity angles. With it, faces that "
        "turned into someone else are left as they were.",
    )
    intermediate: str | None = Field(
        None,
        description="First restorations, made by other programs: a folder of pictures of the same "
        "names and sizes, or a restorer, as --model has it, or several, with commas between them. "
        "By default, the model's own first restorer makes them.",
    )
    candidates: int = Field(
        1,
        ge=1,
        description="First restorations of each first restorer, drawn with other noise, of which "
        "the best is taken.",
    )
    choose: Choice | None = Field(
        None,
        description="By what the best of several first restorations is found, token by token: by "
        "the model's gate (the default), by how little it differs from the degraded face at low "
        "resolution, or by identity.",
    )
    precision: InferencePrecision = Field(
        "float32",
        description="In which numbers the model computes: bf16 needs half of the memory and is "
        "fast on GPUs that have it; its results differ by a few levels of 255. int8 is bf16 with "
        "the generator's linear layers in 8 bits, for models that 'hdrface check' has checked. "
        "Restorers of other projects compute in float32.",
    )
    compile: bool = Field(
        False,
        description="Compile the model's networks first, which takes minutes: for many faces on a "
        "GPU.",
    )
    preview: Path | None = Field(
        None,
        description="Folder of a tiny decoder (diffusers' AutoencoderTiny), for a quick and rough "
        "look at what the model makes of the faces. The results are previews, and say so. Only "
        "for models on Stable Diffusion.",
    )
    batch_size: int = Field(8, ge=1, description="Number of faces to restore at once.")
