"""What is no result has no score, is named, and counts in no mean."""

import numpy as np
import pytest
from skimage.data import astronaut

from components import images
from components.metrics.catalogue import Metric, open_metrics
from components.reporting import comparison, scoring


@pytest.fixture(scope="module")
def metrics() -> dict[str, Metric]:
    return open_metrics(["psnr"], identity_network=None)[0]


def face(number: int) -> images.Image:
    return astronaut()[8 * number : 8 * number + 64, 180:244].copy()


def test_missing_black_and_single_coloured_pictures_are_named_and_left_out_of_the_mean(
    metrics: dict[str, Metric],
) -> None:
    hq = [face(number) for number in range(5)]
    noisy = [np.roll(one, 1, axis=1) for one in hq]
    black, grey = np.zeros_like(hq[0]), np.full_like(hq[0], 77)
    restored = [noisy[0], None, black, grey, noisy[4]]
    faces = [(f"f{number}", 0) for number in range(5)]
    failures: list[scoring.Failures] = [
        {},
        {"restored": "missing"},
        {},
        {},
        {"restored": "not finite"},
    ]
    shown = {"degraded": noisy, "restored": restored}
    rows = scoring.score(faces, shown, hq, metrics, failures)
    result = comparison.result({}, {}, rows, {}, samples=50, seed=1)
    assert [one["reason"] for one in result["failures"]] == [
        "missing",
        "black",
        "of one colour, (77, 77, 77)",
        "not finite",
    ]
    [only] = [one["scores"]["psnr"]["restored"] for one in result["faces"][:1]]
    assert result["faces"][2]["scores"]["psnr"]["restored"] is None
    psnr = result["metrics"]["psnr"]
    assert (psnr["restored"]["n"], psnr["restored"]["of"]) == (1, 5)
    assert psnr["restored"]["mean"] == only
    assert (psnr["degraded"]["n"], psnr["gain"]["n"]) == (5, 1)


def test_scores_are_the_same_whatever_else_is_in_the_batch(metrics: dict[str, Metric]) -> None:
    hq = [face(number) for number in range(3)]
    shown = [np.roll(one, 1, axis=0) for one in hq]
    faces = [(f"f{number}", 0) for number in range(3)]
    whole = scoring.score(faces, {"restored": [shown[0], None, shown[2]]}, hq, metrics)
    alone = scoring.score(faces[2:], {"restored": shown[2:]}, hq[2:], metrics)
    assert whole[2].scores == alone[0].scores


def test_a_metric_without_a_single_score_is_not_measured_and_says_why() -> None:
    rows = [
        scoring.FaceScores(f"f{i}", 0, {"niqe": {"degraded": np.nan, "restored": np.nan}})
        for i in range(2)
    ]
    result = comparison.result({}, {}, rows, {}, samples=50, seed=1)
    assert result["metrics"] == {}
    assert "pictures under 96 pixels" in result["unavailable"]["niqe"]


def test_a_distance_of_sets_has_an_interval_a_warning_and_needs_a_reference() -> None:
    random = np.random.default_rng(0)

    def row(number: int, *, truth: bool) -> scoring.FaceScores:
        hq = random.normal(0, 1, 6).astype(np.float32)
        roles = {"degraded": hq + 2, "restored": hq + 0.5 * random.normal(0, 1, 6)}
        found = {**roles, "hq": hq} if truth else roles
        psnr = {"psnr": {"degraded": 1.0, "restored": 2.0}}
        features = {"fid_folders": {role: one.astype(np.float32) for role, one in found.items()}}
        return scoring.FaceScores(f"f{number}", 0, psnr, features)

    rows = [row(number, truth=True) for number in range(30)]
    result = comparison.result({}, {}, rows, {}, samples=50, seed=1)
    fid = result["metrics"]["fid_folders"]
    # Moved by 2 in each of 6 dimensions: the squared distance of the means.
    assert fid["degraded"]["mean"] == pytest.approx(24, abs=1e-3)
    assert fid["gain"]["mean"] == pytest.approx(fid["restored"]["mean"] - 24, abs=1e-3)
    assert fid["gain"]["high"] < 0
    assert "30 pictures: under 2,048" in fid["restored"]["warning"]
    rows = [row(number, truth=False) for number in range(3)]
    result = comparison.result({}, {}, rows, {}, samples=50, seed=1)
    assert "name one with --reference" in result["unavailable"]["fid_folders"]
