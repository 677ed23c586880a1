"""Roles are scored on the pictures that a user gets, and means say over how many faces."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from skimage.data import astronaut
from torch import Tensor
from torch.nn import functional as F

from components.metrics.catalogue import open_metrics
from components.reporting import comparison
from components.reporting.comparison import Comparison, FaceScores, Pair
from components.restorers.protocol import Restoration


@dataclass
class Blender:
    """A restorer with a known answer: a mixture of the LQ face and its blur."""

    seen: tuple[Sequence[str], Sequence[int]] = ((), ())

    def restore(
        self, lq_B3HW: Tensor, face_ids: Sequence[str], variants: Sequence[int]
    ) -> Restoration:
        self.seen = (face_ids, variants)
        blurred = F.avg_pool2d(lq_B3HW, 3, stride=1, padding=1, count_include_pad=False)
        gate = torch.linspace(0, 1, 4).reshape(1, 2, 2).expand(len(lq_B3HW), -1, -1)
        return Restoration(lq_B3HW.lerp(blurred, 0.7), blurred, gate)


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    random = np.random.default_rng(0)
    corners = ((40, 170), (60, 190), (80, 180))
    hq = [astronaut()[y : y + 64, x : x + 64].copy() for y, x in corners]
    noise = random.normal(0, 15, (3, 64, 64, 3))
    lq = [(one + two).clip(0, 255).astype(np.uint8) for one, two in zip(hq, noise, strict=True)]
    return [Pair(f"face {i}", 2, *two) for i, two in enumerate(zip(hq, lq, strict=True))]


def test_every_role_is_scored_on_the_8_bit_pictures_that_are_shown(pairs: list[Pair]) -> None:
    metrics, _ = open_metrics(["psnr"], identity_network=None)
    blender = Blender()
    compared = Comparison(blender, metrics, device=torch.device("cpu"))(pairs)
    assert blender.seen == (["face 0", "face 1", "face 2"], [2, 2, 2])
    for one in compared:
        assert one.intermediate is not None
        shown = {
            "degraded": one.pair.lq,
            "intermediate": one.intermediate,
            "restored": one.restored,
        }
        assert list(one.scores["psnr"]) == list(shown)
        for role, picture in shown.items():
            assert picture.dtype == np.uint8
            error = np.mean((picture.astype(float) - one.pair.hq) ** 2)
            expected = 10 * np.log10(255**2 / error)
            assert one.scores["psnr"][role] == pytest.approx(expected, abs=1e-3)
        assert one.gate is not None
        assert one.gate.tolist() == pytest.approx(np.linspace(0, 1, 4).reshape(2, 2))


def test_the_comparison_does_not_depend_on_the_batches(pairs: list[Pair]) -> None:
    metrics, _ = open_metrics(["psnr", "ssim"], identity_network=None)
    compare = Comparison(Blender(), metrics, device=torch.device("cpu"))
    whole, cut = compare(pairs), [*compare(pairs[:1]), *compare(pairs[1:])]
    for one, other in zip(whole, cut, strict=True):
        assert (one.restored == other.restored).all()
        for name in metrics:
            assert one.scores[name] == pytest.approx(other.scores[name], abs=1e-4)


def _scores(rows: Sequence[tuple[str, int, float, float]]) -> list[FaceScores]:
    return [
        FaceScores(face_id, variant, {"psnr": {"degraded": before, "restored": after}})
        for face_id, variant, before, after in rows
    ]


def test_variants_of_a_face_are_averaged_before_faces() -> None:
    rows = [("a", 0, 10.0, 12.0), ("a", 1, 20.0, 26.0), ("b", 0, 30.0, 31.0)]
    summary = comparison.summarise(_scores(rows), samples=200, seed=1)["psnr"]
    assert summary["degraded"]["mean"] == pytest.approx((15 + 30) / 2)
    assert summary["gain"]["mean"] == pytest.approx((4 + 1) / 2)
    assert summary["restored"]["n"] == 2
    assert "intermediate" not in summary


def test_the_gain_is_paired_by_face_and_its_interval_does_not_depend_on_the_order() -> None:
    random = np.random.default_rng(3)
    before = random.normal(20, 4, 50)
    rows = [(f"f{i}", 0, b, b + 1 + random.normal(0, 0.1)) for i, b in enumerate(before)]
    summary = comparison.summarise(_scores(rows), samples=1000, seed=1)["psnr"]
    assert 0.9 < summary["gain"]["low"] < summary["gain"]["mean"] < summary["gain"]["high"] < 1.1
    # Unpaired, the same difference drowns: the two intervals overlap.
    assert summary["restored"]["low"] < summary["degraded"]["high"]


def test_a_result_has_every_number_and_how_it_was_measured() -> None:
    faces = _scores([("a", 0, 10.0, 12.0), ("b", 0, 11.0, 12.0)])
    result = comparison.result(
        comparison.model_facts("blend-sdfm", {"fingerprint": "b1e4d", "backbone": "blend"}),
        {"pairs": "9f"},
        faces,
        {"lpips": "no weights"},
        samples=100,
        seed=5,
    )
    assert result["model"]["name"] == "blend-sdfm"
    assert result["protocol"] == {
        "pairs": "9f",
        "confidence": 0.95,
        "bootstrap_samples": 100,
        "seed": 5,
    }
    assert result["metrics"]["psnr"]["better"] == "higher"
    assert result["unavailable"] == {"lpips": "no weights"}
    assert result["faces"][1]["scores"]["psnr"] == {"degraded": 11.0, "restored": 12.0}
    intervals = comparison.intervals_of(result)
    assert list(intervals["psnr"]) == ["degraded", "restored", "gain"]
    assert list(intervals["psnr"]["gain"]) == ["mean", "low", "high", "n", "of"]
    with pytest.raises(ValueError, match="no face was scored"):
        comparison.summarise([], samples=10, seed=1)
