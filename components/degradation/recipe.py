"""What is drawn for one LQ face, and the order in which it is applied (METHOD, section 6).

    HQ -> blur -> shrink -> noise -> JPEG -> enlarge -> (colour shift) -> (grey) -> round -> LQ

`draw` draws all random numbers of a face and a variant; `apply` and `make_pair` are pure functions
of them. Published ranges (kernel; sigma; downsample; noise; JPEG quality):

    VQFR, the paper      41; 0.1-10; 0.8-8; 0-20; 60-100
    HDRFace's reference  81 or 83, the rest as the paper, integer_quality, and sharpened pictures:
                         `unsharp` {} with before_degrading for SD 2.1; for Qwen-Image `unsharp` {}
                         and `unsharp_source` {kernel_size: 101, mask_kernel_size: 1}
    VQFR v2              41; 1-15; 1-30; 0-20; 30-90
    GFPGAN               as the paper, jitter_probability 0.3, grey_probability 0.01
    CodeFormer III       41; 0.1-10; 1-12; 0-15; 60-100
    at 64 x 64 (ours)    13; 0.1-3; 0.8-4; 0-20; 60-100       the paper's leave hardly a face
"""

import math
from dataclasses import dataclass
from typing import Annotated, NamedTuple, Self

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, BeforeValidator, Field, PositiveFloat, model_validator

from components import keyed_random
from components.degradation.blur import Kernel, Picture, blur, gaussian_kernel
from components.degradation.unsharp import SharpenParams, UnsharpParams, sharpen
from components.images import Image
from components.params import Params


def _ordered(low_high: tuple[float, float]) -> tuple[float, float]:
    low, high = low_high
    if low > high:
        raise ValueError(f"a range starts at its lower end; {low} is above {high}")
    return low_high


def _checked_sizes(value: object) -> object:
    sizes = value if isinstance(value, list | tuple) else [value]
    if not sizes or not all(type(size) is int and size > 0 and size % 2 for size in sizes):
        raise ValueError("a kernel has a middle: expected an odd number from 1, or a list of such")
    return value


# The size of every kernel, or those that each kernel's size is drawn from.
KernelSize = Annotated[int | tuple[int, ...], BeforeValidator(_checked_sizes)]
Quality = Annotated[int, Field(ge=1, le=100)]
Probability = Annotated[float, Field(ge=0, le=1)]
Level = Annotated[float, Field(ge=0, le=255)]  # in 1/255


class DegradationParams(Params):
    """The ranges that a degradation is drawn from, uniformly; [low, high] each."""

    kernel_size: KernelSize  # pixels; of several, each is equally likely
    sigma: Annotated[tuple[PositiveFloat, PositiveFloat], AfterValidator(_ordered)]  # pixels
    isotropic_probability: Probability = 0.5
    angle: Annotated[tuple[float, float], AfterValidator(_ordered)] = (-math.pi, math.pi)  # radians
    downsample: Annotated[tuple[PositiveFloat, PositiveFloat], AfterValidator(_ordered)]
    noise: Annotated[tuple[Level, Level], AfterValidator(_ordered)]
    jpeg_quality: Annotated[tuple[Quality, Quality], AfterValidator(_ordered)]
    # False (VQFR): a real number, cut to an integer for the encoder; the upper end is never drawn.
    # True (HDRFace's reference): an integer, both ends included.
    integer_quality: bool = False
    jitter_probability: Probability = 0.0
    jitter_shift: Level = 20.0  # the largest shift of a channel; GFPGAN's and VQFR's
    grey_probability: Probability = 0.0
    grey_target: bool = False  # True: if LQ is grey, so is the HQ target
    unsharp: UnsharpParams | None = None  # sharpens the HQ target
    unsharp_source: SharpenParams | None = None  # sharpens what LQ is made from, not the target

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.unsharp_source is not None and self.unsharp and self.unsharp.before_degrading:
            raise ValueError(
                "unsharp.before_degrading and unsharp_source both say what LQ is made from: "
                "set before_degrading to false, or unsharp_source to null"
            )
        return self


@dataclass(frozen=True, eq=False)
class Degradation:
    """All that is random about one LQ face."""

    kernel: Kernel
    scale: float  # the shrunken picture has floor(size / scale) pixels per side
    noise_sigma: float  # in 1/255
    noise: npt.NDArray[np.float32]  # standard normal, (h, w, 3) of the shrunken picture, RGB
    jpeg_quality: int
    jitter: tuple[float, float, float] | None = None  # added to R, G, B, in 1/255
    is_grey: bool = False
    # what the kernel was made from, for `record`
    sigma_x: float = math.nan
    sigma_y: float = math.nan
    angle: float = math.nan

    def record(self) -> dict[str, float]:
        """Return the numbers that are worth a column."""
        return {
            "sigma_x": self.sigma_x,
            "sigma_y": self.sigma_y,
            "angle": self.angle,
            "scale": self.scale,
            "noise_sigma": self.noise_sigma,
            "jpeg_quality": self.jpeg_quality,
        }


class Pair(NamedTuple):
    hq: Image
    lq: Image


def draw(
    params: DegradationParams, size: tuple[int, int], *, seed: int, face_id: str, variant: int
) -> Degradation:
    """Draw the degradation of one face, a picture of (height, width) pixels.

    Each number is drawn whether it is used or not, so an option that is turned on later does not
    change the blur, scale and noise of any face.

    Raises: ValueError if the drawn scale leaves no pixel of a picture this small.
    """
    dice = keyed_random.generator(seed, face_id, variant, "degradation")
    is_isotropic = dice.random() < params.isotropic_probability
    sigma_x, sigma_y = map(float, dice.uniform(*params.sigma, size=2))
    angle = float(dice.uniform(*params.angle))
    scale = float(dice.uniform(*params.downsample))
    noise_sigma = float(dice.uniform(*params.noise))
    low, high = params.jpeg_quality
    quality = dice.uniform(low, high + 1 if params.integer_quality else high)
    is_jittered = dice.random() < params.jitter_probability
    red, green, blue = map(float, dice.uniform(-params.jitter_shift, params.jitter_shift, size=3))
    is_grey = bool(dice.random() < params.grey_probability)
    sizes = (params.kernel_size,) if isinstance(params.kernel_size, int) else params.kernel_size
    kernel_size = sizes[dice.integers(len(sizes))]

    if is_isotropic:
        sigma_y, angle = sigma_x, 0.0
    height, width = (_shrunken(side, scale) for side in size)
    noise = keyed_random.normal(seed, face_id, variant, "degradation noise", (height, width, 3))
    return Degradation(
        kernel=gaussian_kernel(kernel_size, sigma_x, sigma_y, angle),
        scale=scale,
        noise_sigma=noise_sigma,
        noise=noise,
        jpeg_quality=min(int(quality), high),
        jitter=(red, green, blue) if is_jittered else None,
        is_grey=is_grey,
        sigma_x=sigma_x,
        sigma_y=sigma_y,
        angle=angle,
    )


def apply(hq: Image, drawn: Degradation) -> Image:
    """Degrade one face. Shape: (H, W, 3) uint8 RGB -> the same."""
    height, width = hq.shape[:2]
    shrunken = blur_and_shrink(hq, drawn)
    # Adds the noise, clips and rounds to the 8 bits of JPEG, in one pass.
    noisy = cv2.addWeighted(shrunken, 1, drawn.noise, drawn.noise_sigma, 0, dtype=cv2.CV_8U)
    small = _through_jpeg(np.asarray(noisy, dtype=np.uint8), drawn.jpeg_quality)
    lq = _resize(small.astype(np.float32), width, height)
    if drawn.jitter is not None:
        lq = np.clip(lq + np.array(drawn.jitter, np.float32), 0, 255)
    if drawn.is_grey:
        lq = _grey(lq)
    return np.asarray(cv2.convertScaleAbs(lq), dtype=np.uint8)  # it rounds; no value is below 0


def blur_and_shrink(hq: Image, drawn: Degradation) -> Picture:
    """Run the steps before the noise. Shape: (H, W, 3) uint8 -> (h, w, 3) float32 in [0, 255]."""
    height, width = hq.shape[:2]
    blurred = blur(hq, drawn.kernel)
    return _resize(blurred, _shrunken(width, drawn.scale), _shrunken(height, drawn.scale))


def make_pair(face: Image, drawn: Degradation, params: DegradationParams) -> Pair:
    """Make the HQ target and the LQ face that a model is trained with.

    The target is the face itself (the same object) unless an option changes it.
    """
    target = face
    if params.unsharp is not None:
        target = sharpen(face, params.unsharp)
        if params.unsharp.before_degrading:
            face = target
    if params.unsharp_source is not None:
        face = sharpen(face, params.unsharp_source)
    lq = apply(face, drawn)
    if drawn.is_grey and params.grey_target:
        target = np.rint(_grey(target.astype(np.float32))).astype(np.uint8)
    return Pair(target, lq)


def _shrunken(side: int, scale: float) -> int:
    shrunken = int(side // scale)
    if shrunken < 1:
        raise ValueError(
            f"a picture of {side} pixels per side cannot be shrunk {scale:.2f} times:"
            " lower the upper end of 'downsample'"
        )
    return shrunken


def _resize(picture: Picture, width: int, height: int) -> Picture:
    resized = cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(resized, dtype=np.float32)


def _through_jpeg(image: Image, quality: int) -> Image:
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    done, jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ValueError(f"OpenCV cannot encode a picture of shape {image.shape} as JPEG")
    decoded = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)
    assert decoded is not None  # encoded a line above
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def _grey(picture: Picture) -> Picture:
    """Return a picture with the luma (BT.601) in all three channels."""
    luma = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.merge([luma, luma, luma]), dtype=np.float32)
