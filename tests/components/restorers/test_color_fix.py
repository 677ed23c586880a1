import numpy as np
import numpy.typing as npt
import pytest
import torch

from components.backbones.color_fix import ColorFix
from components.restorers.color_fix import fix_colors

Array = npt.NDArray[np.float64]


def pictures(seed: int, size: int = 48) -> torch.Tensor:
    draw = np.random.default_rng(seed)
    return torch.from_numpy(draw.random((2, 3, size, size))).float()


def coarse(image_HW: Array) -> Array:
    """Blur one channel with taps 1, 2, 4, 8, 16 apart, pixel by pixel sum, borders repeated."""
    for level in range(5):
        apart = 2**level
        padded = np.pad(image_HW, apart, mode="edge")
        height, width = image_HW.shape
        image_HW = sum(
            wy * wx * padded[dy * apart :, dx * apart :][:height, :width]
            for dy, wy in enumerate((0.25, 0.5, 0.25))
            for dx, wx in enumerate((0.25, 0.5, 0.25))
        )
    return image_HW


def test_wavelet_keeps_fine_detail_and_takes_coarse_colours() -> None:
    restored, reference = pictures(1), pictures(2)
    fixed = fix_colors(restored, reference, "wavelet").numpy()
    for face in range(2):
        for channel in range(3):
            x = restored[face, channel].numpy().astype(np.float64)
            y = reference[face, channel].numpy().astype(np.float64)
            assert fixed[face, channel] == pytest.approx(x - coarse(x) + coarse(y), abs=1e-5)


def test_adain_takes_mean_and_deviation_of_each_channel_and_face() -> None:
    restored, reference = pictures(1), 0.3 * pictures(2) + 0.5
    fixed = fix_colors(restored, reference, "adain").double().numpy()
    wanted = reference.double().numpy()
    assert fixed.mean(axis=(2, 3)) == pytest.approx(wanted.mean(axis=(2, 3)), abs=1e-4)
    assert fixed.std(axis=(2, 3)) == pytest.approx(wanted.std(axis=(2, 3)), abs=1e-4)
    x = restored.double().numpy()
    z = (x - x.mean(axis=(2, 3), keepdims=True)) / x.std(axis=(2, 3), keepdims=True)
    again = (fixed - fixed.mean(axis=(2, 3), keepdims=True)) / fixed.std(axis=(2, 3), keepdims=True)
    assert again == pytest.approx(z, abs=1e-3)  # the picture is the same but for its colours


@pytest.mark.parametrize("how", ["wavelet", "adain"])
def test_a_colour_cast_is_removed(how: ColorFix) -> None:
    face = pictures(3)
    cast = face + torch.tensor([0.1, -0.05, 0.02]).view(1, 3, 1, 1)
    assert torch.allclose(fix_colors(cast, face, how), face, atol=1e-5)


def test_a_face_of_one_colour_stays_finite() -> None:
    flat = torch.full((1, 3, 40, 40), 0.5)
    assert torch.isfinite(fix_colors(pictures(1)[:1], flat, "adain")).all()
    assert torch.isfinite(fix_colors(flat, pictures(1)[:1], "adain")).all()


def test_none_changes_no_bit() -> None:
    assert torch.equal(fix_colors(pictures(1), pictures(2), "none"), pictures(1))
