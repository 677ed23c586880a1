import dataclasses
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import scipy.stats
import yaml

from components.degradation import recipe
from components.degradation.recipe import Degradation, DegradationParams, draw, make_pair
from components.degradation.unsharp import SharpenParams, UnsharpParams, sharpen
from components.images import Image
from components.params import ParamsError

GOLDEN = Path(__file__).parents[2] / "golden"
PAPER = DegradationParams(
    kernel_size=41, sigma=(0.1, 10), downsample=(0.8, 8), noise=(0, 20), jpeg_quality=(60, 100)
)
TINY = DegradationParams(
    kernel_size=13, sigma=(0.1, 3), downsample=(0.8, 4), noise=(0, 20), jpeg_quality=(60, 100)
)
Floats = npt.NDArray[np.float64]


def face(side: int = 64, seed: int = 0) -> Image:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (7, 7, 3), np.uint8)
    picture = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
    noise = rng.integers(-9, 10, picture.shape)
    return np.asarray(np.clip(picture.astype(np.int64) + noise, 0, 255), dtype=np.uint8)


def changed(**values: Any) -> DegradationParams:
    return DegradationParams.model_validate(TINY.model_dump() | values)


# ---- the reference's numbers


def golden_case(numbers: Any, case: int) -> Degradation:
    return Degradation(
        kernel=numbers[f"{case}.kernel"],
        scale=float(numbers[f"{case}.scale"]),
        noise_sigma=float(numbers[f"{case}.noise_sigma"]),
        noise=numbers[f"{case}.noise"].astype(np.float32),
        jpeg_quality=int(numbers[f"{case}.quality"]),
    )


@pytest.mark.parametrize("case", range(4))
def test_blurred_and_shrunken_pictures_equal_the_references(case: int) -> None:
    golden = np.load(GOLDEN / "degradation.npz")
    drawn = Degradation(
        kernel=golden[f"{case}.kernel"],
        scale=float(golden[f"{case}.scale"]),
        noise_sigma=0,
        noise=np.empty(0, np.float32),
        jpeg_quality=100,
    )
    small = recipe.blur_and_shrink(golden["hq"], drawn)
    expected = 255 * golden[f"{case}.blurred_small"]  # every sixth row and column
    np.testing.assert_allclose(small[::6, ::6], expected, rtol=0, atol=0.01)


@pytest.mark.parametrize("case", [1, 2])
def test_degraded_faces_equal_the_references(case: int) -> None:
    golden = np.load(GOLDEN / "degradation.npz")
    lq = recipe.apply(golden["hq"], golden_case(golden, case))
    difference = np.abs(lq[::4, ::4].astype(int) - golden[f"{case}.lq"])
    assert difference.mean() < 0.25  # coders of JPEG differ: 1 is allowed, 0.06 to 0.12 seen


@pytest.mark.shared
@pytest.mark.parametrize("case", range(4))
def test_degraded_faces_equal_the_references_at_every_pixel(case: int, shared_dir: Path) -> None:
    golden = np.load(shared_dir / "golden" / "degradation.npz")
    lq = recipe.apply(golden["hq"], golden_case(golden, case))
    assert np.abs(lq.astype(int) - golden[f"{case}.lq"]).mean() < 0.25


# ---- METHOD 6 written out in float64


def weights_of_a_line(length: int, out: int) -> Floats:
    """Bilinear interpolation with pixel centres at halves, borders repeated: (out, length)."""
    matrix = np.zeros((out, length))
    for i in range(out):
        place = min(max((i + 0.5) * length / out - 0.5, 0.0), length - 1.0)
        left = int(place)
        matrix[i, left] += 1 - (place - left)
        matrix[i, min(left + 1, length - 1)] += place - left
    return matrix


def resized(picture: Floats, height: int, width: int) -> Floats:
    rows = weights_of_a_line(picture.shape[0], height)
    columns = weights_of_a_line(picture.shape[1], width)
    result: Floats = np.einsum("yi,xj,ijc->yxc", rows, columns, picture)
    return result


def degraded_by_the_book(hq: Image, drawn: Degradation) -> Floats:
    x = hq / 255.0
    height, width = hq.shape[:2]
    radius = drawn.kernel.shape[0] // 2
    padded = np.pad(x, ((radius, radius), (radius, radius), (0, 0)), "reflect")
    blurred = np.zeros_like(x)
    for dy, dx in np.ndindex(drawn.kernel.shape):
        blurred += drawn.kernel[dy, dx] * padded[dy : dy + height, dx : dx + width]
    x = resized(blurred, math.floor(height / drawn.scale), math.floor(width / drawn.scale))
    x = np.clip(x + drawn.noise * drawn.noise_sigma / 255, 0, 1)
    bgr = np.rint(x * 255).astype(np.uint8)[..., ::-1]
    coded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, drawn.jpeg_quality])[1]
    decoded = cv2.imdecode(coded, cv2.IMREAD_COLOR)
    assert decoded is not None
    x = resized(decoded[..., ::-1].astype(np.float64) / 255, height, width)
    if drawn.jitter is not None:
        x = np.clip(x + np.array(drawn.jitter) / 255, 0, 1)
    if drawn.is_grey:
        x = np.repeat((x @ [0.299, 0.587, 0.114])[..., None], 3, axis=2)
    return 255 * x


@pytest.mark.parametrize("options", [{}, {"jitter_probability": 1.0}, {"grey_probability": 1.0}])
@pytest.mark.parametrize("variant", range(6))
def test_a_degraded_face_equals_the_method_written_out(
    variant: int, options: dict[str, float]
) -> None:
    params, hq = changed(**options), face(seed=variant)
    drawn = draw(params, (64, 64), seed=5, face_id="a", variant=variant)
    difference = np.abs(recipe.apply(hq, drawn) - degraded_by_the_book(hq, drawn))
    # Half a level of rounding; a rare pixel that rounds the other way before JPEG moves its block.
    assert np.median(difference) < 0.5
    assert difference.mean() < 0.35
    assert difference.max() < 8


def test_pictures_need_not_be_square() -> None:
    hq = face(96)[:50]
    drawn = draw(TINY, (50, 96), seed=1, face_id="wide", variant=0)
    assert recipe.apply(hq, drawn).shape == (50, 96, 3)
    assert np.abs(recipe.apply(hq, drawn) - degraded_by_the_book(hq, drawn)).mean() < 0.35


# ---- what is drawn


def many(params: DegradationParams, count: int) -> list[Degradation]:
    return [
        draw(params, (24, 24), seed=3, face_id=f"face-{number // 2}", variant=number % 2)
        for number in range(count)
    ]


def test_what_is_drawn_follows_the_parameters() -> None:
    count = 4000
    drawn = many(PAPER, count)
    records = [one.record() for one in drawn]
    isotropic = np.array([one.sigma_x == one.sigma_y and one.angle == 0 for one in drawn])

    def assert_uniform(values: Any, low: float, high: float) -> None:
        values = np.asarray(values, dtype=np.float64)
        assert low <= values.min()
        assert values.max() <= high
        test = scipy.stats.kstest(values, scipy.stats.uniform(low, high - low).cdf)
        assert test.pvalue > 0.01, (test, low, high)

    assert abs(isotropic.mean() - 0.5) < 4 * math.sqrt(0.25 / count)
    oblique = [record for record, is_round in zip(records, isotropic, strict=True) if not is_round]
    assert_uniform([record["sigma_x"] for record in records], 0.1, 10)
    assert_uniform([record["sigma_y"] for record in oblique], 0.1, 10)
    assert_uniform([record["angle"] for record in oblique], -math.pi, math.pi)
    assert_uniform([record["scale"] for record in records], 0.8, 8)
    assert_uniform([record["noise_sigma"] for record in records], 0, 20)
    # The numbers of one face, and of its two variants, have nothing to do with each other.
    table = np.array([[record[key] for key in sorted(record)] for record in oblique])
    off_diagonal = np.corrcoef(table.T)[~np.eye(6, dtype=bool)]
    assert np.abs(off_diagonal).max() < 4 / math.sqrt(len(oblique))
    scales = np.array([record["scale"] for record in records])
    assert abs(np.corrcoef(scales[::2], scales[1::2])[0, 1]) < 4 / math.sqrt(count / 2)


@pytest.mark.parametrize(("integer", "values"), [(False, range(60, 100)), (True, range(60, 101))])
def test_qualities_are_equally_likely(integer: bool, values: range) -> None:
    params = changed(integer_quality=integer)
    qualities = [one.jpeg_quality for one in many(params, 4000)]
    counts = np.array([qualities.count(value) for value in values])
    assert counts.sum() == len(qualities)
    assert scipy.stats.chisquare(counts).pvalue > 0.01


def test_jitter_and_grey_have_their_shares_and_shifts_their_range() -> None:
    params = changed(jitter_probability=0.3, jitter_shift=12, grey_probability=0.1)
    drawn = many(params, 3000)
    shifts = np.array([one.jitter for one in drawn if one.jitter is not None])
    assert abs(len(shifts) / 3000 - 0.3) < 0.034
    assert abs(np.mean([one.is_grey for one in drawn]) - 0.1) < 0.022
    for channel in shifts.T:
        assert scipy.stats.kstest(channel, scipy.stats.uniform(-12, 24).cdf).pvalue > 0.01


def test_the_noise_is_standard_normal_in_every_shrunken_pixel() -> None:
    drawn = draw(PAPER, (256, 256), seed=3, face_id="a", variant=0)
    side = math.floor(256 / drawn.scale)
    assert drawn.noise.shape == (side, side, 3)
    assert scipy.stats.kstest(drawn.noise.ravel(), "norm").pvalue > 0.01


def test_an_option_turned_on_later_changes_nothing_else() -> None:
    more = changed(jitter_probability=1.0, grey_probability=1.0, integer_quality=True)
    for variant in range(20):
        first, second = (
            draw(p, (64, 64), seed=1, face_id="a", variant=variant) for p in (TINY, more)
        )
        ours, theirs = first.record(), second.record()
        assert abs(ours.pop("jpeg_quality") - theirs.pop("jpeg_quality")) <= 1
        assert ours == theirs
        np.testing.assert_array_equal(first.noise, second.noise)
        np.testing.assert_array_equal(first.kernel, second.kernel)


def test_a_kernels_size_is_drawn_from_a_list_and_changes_nothing_else() -> None:
    several = many(changed(kernel_size=(5, 7, 13)), 3000)
    sizes = [len(one.kernel) for one in several]
    assert scipy.stats.chisquare([sizes.count(size) for size in (5, 7, 13)]).pvalue > 0.01
    for one, other in zip(several, many(TINY, 50), strict=False):
        assert one.record() == other.record()
        np.testing.assert_array_equal(one.noise, other.noise)
        if len(one.kernel) == 13:
            np.testing.assert_array_equal(one.kernel, other.kernel)
        else:  # the same Gaussian, cut off earlier
            cut = (13 - len(one.kernel)) // 2
            inner = other.kernel[cut:-cut, cut:-cut]
            np.testing.assert_allclose(one.kernel, inner / inner.sum(), rtol=1e-12)


def test_a_range_of_one_value_always_gives_that_value() -> None:
    params = changed(sigma=(2, 2), downsample=(2, 2), noise=(7, 7), jpeg_quality=(80, 80))
    for drawn in many(params, 50):
        record = drawn.record()
        record.pop("angle")
        assert list(record.values()) == [2, 2, 2, 7, 80]


def test_a_face_that_shrinks_to_nothing_is_refused() -> None:
    params = changed(downsample=(100, 100))
    with pytest.raises(ValueError, match=r"64 pixels per side cannot be shrunk 100\.00 times"):
        draw(params, (64, 64), seed=1, face_id="a", variant=0)


# ---- options


def test_grey_makes_the_channels_equal_and_optionally_those_of_the_target() -> None:
    hq = face()
    params = changed(grey_probability=1.0)
    drawn = draw(params, (64, 64), seed=1, face_id="a", variant=0)
    target, lq = make_pair(hq, drawn, params)
    assert target is hq
    np.testing.assert_array_equal(lq, np.repeat(lq[..., :1], 3, axis=2))
    target, _ = make_pair(hq, drawn, changed(grey_probability=1.0, grey_target=True))
    luma = hq @ np.array([0.299, 0.587, 0.114])
    assert np.abs(target - luma[..., None]).max() < 0.51


@pytest.mark.parametrize("before", [False, True])
def test_unsharp_mask_changes_the_target_and_optionally_lq(before: bool) -> None:
    hq = face()
    params = changed(unsharp=UnsharpParams(before_degrading=before))
    drawn = draw(params, (64, 64), seed=1, face_id="a", variant=0)
    assert params.unsharp is not None
    sharp = sharpen(hq, params.unsharp)
    assert not np.array_equal(sharp, hq)
    target, lq = make_pair(hq, drawn, params)
    np.testing.assert_array_equal(target, sharp)
    np.testing.assert_array_equal(lq, recipe.apply(sharp if before else hq, drawn))


def test_a_sharpened_source_changes_lq_and_not_the_target() -> None:
    hq = face()
    source = SharpenParams(kernel_size=11, mask_kernel_size=1)
    params = changed(unsharp_source=source)
    drawn = draw(params, (64, 64), seed=1, face_id="a", variant=0)
    target, lq = make_pair(hq, drawn, params)
    assert target is hq
    np.testing.assert_array_equal(lq, recipe.apply(sharpen(hq, source), drawn))
    both = make_pair(hq, drawn, changed(unsharp=UnsharpParams(), unsharp_source=source))
    np.testing.assert_array_equal(both.hq, sharpen(hq, UnsharpParams()))
    np.testing.assert_array_equal(both.lq, lq)
    with pytest.raises(ValueError, match="both say what LQ is made from"):
        changed(unsharp=UnsharpParams(before_degrading=True), unsharp_source=source)


def test_applying_changes_neither_the_face_nor_what_was_drawn() -> None:
    hq = face()
    params = changed(jitter_probability=1.0, grey_probability=1.0, grey_target=True)
    drawn = draw(params, (64, 64), seed=1, face_id="a", variant=0)
    kept_hq, kept_noise = hq.copy(), drawn.noise.copy()
    first = make_pair(hq, drawn, params)
    second = make_pair(hq, dataclasses.replace(drawn), params)
    np.testing.assert_array_equal(hq, kept_hq)
    np.testing.assert_array_equal(drawn.noise, kept_noise)
    np.testing.assert_array_equal(first.lq, second.lq)


# ---- parameters


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("kernel_size", 40, "recipe.kernel_size = 40: a kernel has a middle"),
        ("kernel_size", -3, "recipe.kernel_size = -3: a kernel has a middle"),
        ("kernel_size", [81, 84], "recipe.kernel_size = [81, 84]: a kernel has a middle"),
        ("kernel_size", [], "recipe.kernel_size = []: a kernel has a middle"),
        ("kernel_size", True, "recipe.kernel_size = True: a kernel has a middle"),
        ("sigma", [3, 1], "recipe.sigma = [3, 1]: a range starts at its lower end"),
        ("sigma", [0, 1], "recipe.sigma.0 = 0: Input should be greater than 0"),
        ("downsample", [4, 0.8], "recipe.downsample = [4, 0.8]: a range starts"),
        ("downsample", [-1, 8], "recipe.downsample.0 = -1: Input should be greater than 0"),
        ("noise", [0, 300], "recipe.noise.1 = 300: Input should be less than or equal to 255"),
        ("noise", [0, math.nan], "recipe.noise.1 = nan: Input should be"),
        ("jpeg_quality", [60, 195], "recipe.jpeg_quality.1 = 195: Input should be less than"),
        ("jpeg_quality", [0, 90], "recipe.jpeg_quality.0 = 0: Input should be greater than"),
        ("jpeg_quality", [90, 60], "recipe.jpeg_quality = [90, 60]: a range starts"),
        ("isotropic_probability", 1.5, "recipe.isotropic_probability = 1.5: Input should be less"),
        ("grey_probability", -0.1, "recipe.grey_probability = -0.1: Input should be greater"),
        ("jpg", 1, "recipe.jpg = 1: Extra inputs are not permitted"),
    ],
)
def test_an_impossible_value_is_refused_by_name(
    key: str, value: Any, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "params.yaml"
    values = yaml.safe_load(TINY.model_dump_json()) | {key: value}
    file.write_text(yaml.safe_dump({"degrade": {"recipe": values}}))
    with pytest.raises(ParamsError) as raised:
        DegradationParams.load("degrade.recipe", file)
    assert len(raised.value.problems) == 1
    assert message in raised.value.problems[0]
