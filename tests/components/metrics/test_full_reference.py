"""PSNR and SSIM against their definitions, written out or by another library."""

import numpy as np
import pytest
import torch
from skimage.data import astronaut
from skimage.metrics import structural_similarity

from components import images
from components.metrics.catalogue import Metric, open_metrics


@pytest.fixture(scope="module")
def metrics() -> dict[str, Metric]:
    return open_metrics(["psnr", "ssim"], identity_network=None)[0]


@pytest.fixture(scope="module")
def pair() -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return two parts of a photograph, and the same with noise and blur."""
    photograph = astronaut()
    hq = [photograph[y : y + 96, x : x + 96].copy() for y, x in ((50, 180), (200, 100))]
    random = np.random.default_rng(0)
    noisy = (hq[0] + random.normal(0, 12, hq[0].shape)).clip(0, 255).astype(np.uint8)
    return [noisy, images.resize(images.resize(hq[1], 32), 96)], hq


def _luma(image: np.ndarray) -> np.ndarray:
    """Return the Y of YIQ, rounded to 0 to 255 as pyiqa does."""
    return np.round(image.astype(np.float64) @ (0.299, 0.587, 0.114))


def test_psnr_equals_its_definition(metrics: dict[str, Metric], pair) -> None:
    degraded, hq = pair
    errors = [np.mean((one.astype(float) - other) ** 2) for one, other in zip(*pair, strict=True)]
    expected = [10 * np.log10(255**2 / error) for error in errors]
    scores = metrics["psnr"](images.to_tensor(degraded), images.to_tensor(hq))
    assert scores.shape == (2,)
    assert scores == pytest.approx(expected, abs=1e-3)


def test_ssim_equals_skimages_on_the_y_channel(metrics: dict[str, Metric], pair) -> None:
    degraded, hq = pair
    scores = metrics["ssim"](images.to_tensor(degraded), images.to_tensor(hq))
    for score, one, other in zip(scores, degraded, hq, strict=True):
        _, ssim_map = structural_similarity(
            _luma(one), _luma(other), data_range=255, gaussian_weights=True, sigma=1.5,
            use_sample_covariance=False, full=True,
        )  # fmt: skip
        # pyiqa keeps only the windows that lie within the picture.
        assert score == pytest.approx(ssim_map[5:-5, 5:-5].mean(), abs=2e-4)


def test_equal_pictures_score_80_db_and_an_ssim_of_one(metrics: dict[str, Metric], pair) -> None:
    hq_B3HW = images.to_tensor(pair[1])
    assert metrics["psnr"](hq_B3HW, hq_B3HW) == pytest.approx([80, 80])
    assert metrics["ssim"](hq_B3HW, hq_B3HW) == pytest.approx([1, 1])


def test_a_batch_scores_as_its_faces_one_by_one(metrics: dict[str, Metric], pair) -> None:
    degraded, hq = map(images.to_tensor, pair)
    for metric in metrics.values():
        alone = torch.tensor([metric(degraded[i : i + 1], hq[i : i + 1])[0] for i in range(2)])
        assert metric(degraded, hq) == pytest.approx(alone.numpy(), abs=1e-5)
