"""The Fréchet distance against its formula with SciPy's square root of a matrix."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import linalg

from components.metrics.frechet import FrechetDistance, Gaussian


def written_out(one: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> float:
    """Compute |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), with C1 of the unbiased kind."""
    own = np.cov(one, rowvar=False)
    root = linalg.sqrtm(own @ covariance)
    offset = one.mean(axis=0) - mean
    return float(offset @ offset + np.trace(own + covariance - 2 * np.real(root)))


@pytest.fixture
def reference() -> Gaussian:
    return Gaussian.of(np.random.default_rng(0).normal(0.3, 2, (200, 12)).astype(np.float32))


@pytest.mark.parametrize("num_faces", [100, 7])  # more faces than features, and fewer
def test_it_equals_its_formula(reference: Gaussian, num_faces: int) -> None:
    random = np.random.default_rng(1)
    features = random.normal(0, 1, (num_faces, 12)).astype(np.float32)
    names = [str(number) for number in range(num_faces)]
    measured, nothing = FrechetDistance(reference).intervals([features], names, seed=1)
    expected = written_out(features, reference.mean, reference.covariance)
    assert measured.mean == pytest.approx(expected, rel=1e-5)
    assert nothing.mean == 0
    assert measured.low is not None
    assert measured.high is not None
    assert measured.low < measured.mean < measured.high


def test_a_paired_difference_is_narrower_than_each_interval(reference: Gaussian) -> None:
    random = np.random.default_rng(2)
    one = random.normal(0, 1, (60, 12)).astype(np.float32)
    other = one + random.normal(0.2, 0.01, one.shape).astype(np.float32)
    names = [str(number) for number in range(60)]
    first, _, difference = FrechetDistance(reference).intervals([one, other], names, seed=1)
    again = FrechetDistance(reference).intervals([one, other], names, seed=1)
    assert again[2] == difference
    assert difference.high - difference.low < (first.high - first.low) / 3  # type: ignore[operator]


def test_several_pictures_of_a_face_are_drawn_together(reference: Gaussian) -> None:
    features = np.random.default_rng(3).normal(0, 1, (8, 12)).astype(np.float32)
    twice, ids = np.concatenate([features, features]), [str(number % 8) for number in range(16)]
    measured, _ = FrechetDistance(reference).intervals([twice], ids, seed=1)
    assert measured.n == 8


def test_statistics_are_read_from_both_published_forms(tmp_path: Path, reference: Gaussian) -> None:
    reference.write(tmp_path / "clean.npz")
    torch.save(
        {"mean": reference.mean, "cov": reference.covariance, "name": "ffhq"}, tmp_path / "vqfr.pth"
    )
    for file in ("clean.npz", "vqfr.pth"):
        assert (Gaussian.read(tmp_path / file).covariance == reference.covariance).all()
    np.savez(tmp_path / "other.npz", kid=reference.mean)
    with pytest.raises(ValueError, match=r"other\.npz holds kid, not mu and sigma"):
        Gaussian.read(tmp_path / "other.npz")
