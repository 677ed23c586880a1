"""Who becomes the champion: laws of the rule, and the same intervals by another bootstrap."""

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from components.metrics import promotion
from components.metrics.catalogue import CATALOGUE, How
from components.metrics.promotion import Rule
from components.reporting import comparison
from components.reporting.comparison import FaceScores

RULE = Rule(better=["psnr"], not_worse={"ssim": 0.01}, bootstrap_samples=500, seed=3)


def scores(
    psnr: Any, ssim: Any, *, degraded: float = 20.0, pairs: str = "9f", **changed: Any
) -> dict[str, Any]:
    """Make a metrics file with one variant per face, and one value per face in both metrics."""
    faces = [
        FaceScores(
            f"face-{i}",
            0,
            {
                "psnr": {"degraded": degraded, "restored": float(one)},
                "ssim": {"degraded": 0.5, "restored": float(other)},
            },
        )
        for i, (one, other) in enumerate(zip(psnr, ssim, strict=True))
    ]
    return {
        **comparison.result(
            {"fingerprint": "ab"},
            {"pairs": pairs},
            faces,
            {"lpips": "no weights"},
            samples=2,
            seed=1,
        ),
        **changed,
    }


values = st.lists(st.floats(10, 40, width=32), min_size=2, max_size=12)


@settings(max_examples=25, deadline=None)
@given(psnr=values, gain=st.floats(0.01, 5))
def test_better_on_every_face_is_better_and_never_both_ways(psnr: list[float], gain: float) -> None:
    ssim = [0.7] * len(psnr)
    before, after = scores(psnr, ssim), scores(np.add(psnr, gain), ssim)
    assert promotion.compare(after, before, RULE).is_better
    assert not promotion.compare(before, after, RULE).is_better


@settings(max_examples=25, deadline=None)
@given(one=values, draw=st.randoms(use_true_random=False))
def test_at_most_one_of_two_models_is_better(one: list[float], draw: Any) -> None:
    other = draw.sample(one, len(one))
    ssim = [0.7] * len(one)
    first = promotion.compare(scores(one, ssim), scores(other, ssim), RULE)
    second = promotion.compare(scores(other, ssim), scores(one, ssim), RULE)
    assert not (first.is_better and second.is_better)


@settings(max_examples=15, deadline=None)
@given(psnr=values)
def test_no_model_replaces_itself(psnr: list[float]) -> None:
    same = scores(psnr, [0.7] * len(psnr))
    assert not promotion.compare(same, same, RULE).is_better


@settings(max_examples=25, deadline=None)
@given(psnr=values, loss=st.floats(0, 0.02))
def test_a_loss_is_accepted_within_the_margin_and_not_beyond_it(
    psnr: list[float], loss: float
) -> None:
    assume(abs(loss - 0.01) > 1e-9)
    before = scores(psnr, [0.7] * len(psnr))
    after = scores(np.add(psnr, 1), [0.7 - loss] * len(psnr))
    verdict = promotion.compare(after, before, RULE)
    assert verdict.is_better == (loss < 0.01)
    if not verdict.is_better:
        assert verdict.reason.startswith("ssim not shown to be within 0.01 (")


@settings(max_examples=20, deadline=None)
@given(psnr=values, order=st.randoms(use_true_random=False))
def test_the_order_of_faces_changes_nothing(psnr: list[float], order: Any) -> None:
    before = scores(psnr, [0.7] * len(psnr))
    draw = np.random.default_rng(len(psnr))
    after = scores(np.add(psnr, draw.normal(0.2, 0.3, len(psnr))), [0.7] * len(psnr))
    shuffled = {**after, "faces": order.sample(after["faces"], len(psnr))}
    assert promotion.compare(shuffled, before, RULE) == promotion.compare(after, before, RULE)


@pytest.mark.parametrize("mean", [0.02, 0.1, 0.6, -0.4])
def test_an_independent_bootstrap_gives_the_same_interval_and_decision(mean: float) -> None:
    draw = np.random.default_rng(5)
    before = draw.normal(25, 3, 40)
    gains = draw.normal(mean, 0.3, 40)
    rule = RULE.model_copy(update={"bootstrap_samples": 20_000})
    verdict = promotion.compare(
        scores(before + gains, [0.7] * 40), scores(before, [0.7] * 40), rule
    )

    means = [draw.choice(gains, 40).mean() for _ in range(20_000)]
    low, high = np.percentile(means, [2.5, 97.5])
    told = verdict.reason.split("95 %: ")[1].split(";")[0]
    assert [float(bound) for bound in told.split(" to ")] == pytest.approx([low, high], abs=0.01)
    assert verdict.is_better == (low > 0)


def test_if_lower_is_better_less_is_a_gain() -> None:
    rule = Rule(better=["psnr"], not_worse={}, bootstrap_samples=100, seed=1)
    low, high = scores([10, 11, 12], [0.5] * 3), scores([20, 21, 22], [0.5] * 3)
    for one in (low, high):
        one["metrics"]["psnr"]["better"] = "lower"
    assert promotion.compare(low, high, rule).is_better
    assert not promotion.compare(high, low, rule).is_better


def test_variants_of_a_face_count_once() -> None:
    one = scores([21, 21, 21], [0.7] * 3)
    several = {
        **one,
        "faces": [{**face, "variant": variant} for face in one["faces"] for variant in range(4)],
    }
    assert "3 faces" in promotion.compare_with_input(several, RULE).reason


def test_the_first_model_is_compared_with_its_input() -> None:
    good = promotion.compare_with_input(scores([21, 22, 23], [0.7] * 3), RULE)
    assert good.is_better
    assert good.reason.startswith("psnr better (+2 dB; 95 %: +1 to +3; 3 faces); ssim not worse by")
    bad = promotion.compare_with_input(scores([19, 18, 17], [0.7] * 3), RULE)
    assert not bad.is_better
    assert bad.reason.startswith("psnr not shown to be better (-2 dB;")


def test_other_faces_are_not_comparable() -> None:
    one = scores([21, 22], [0.7] * 2)
    verdict = promotion.compare(one, scores([1, 2], [0.1] * 2, pairs="e0"), RULE)
    assert not verdict.is_better
    assert verdict.reason == "not comparable: it was scored on the pairs 9f, the champion on e0"
    verdict = promotion.compare(one, scores([1, 2, 3], [0.1] * 3), RULE)
    assert not verdict.is_better
    assert verdict.reason == (
        "not comparable: 2 test faces, the champion had 3; only one of them has ('face-2', 0)"
    )


def test_a_metric_that_is_missing_or_measured_differently_is_a_reason_against() -> None:
    rule = RULE.model_copy(update={"not_worse": {"lpips": 0.1, "dists": 0.1}})
    verdict = promotion.compare(scores([21, 22], [0.7] * 2), scores([1, 2], [0.7] * 2), rule)
    assert not verdict.is_better
    assert verdict.reason == (
        "lpips was not measured for the candidate: no weights; "
        "dists was not measured for the candidate: 'evaluate.metrics' does not name it"
    )
    other = scores([1, 2], [0.7] * 2)
    other["metrics"]["psnr"]["protocol"] = "Y channel"
    verdict = promotion.compare(scores([21, 22], [0.7] * 2), other, RULE)
    assert verdict.reason.endswith("for the champion as 'Y channel'")


def test_angles_of_two_identity_networks_are_not_compared() -> None:
    def measured_with(network: str, psnr: float) -> dict[str, Any]:
        both = {
            "psnr": {"degraded": 20.0, "restored": psnr},
            "identity_angle": {"degraded": 40.0, "restored": 30.0},
        }
        faces = [FaceScores(f"face-{i}", 0, both) for i in range(3)]
        how = {"identity_angle": How(CATALOGUE["identity_angle"].protocol.measured({"n": network}))}
        return comparison.result({}, {}, faces, {}, samples=2, seed=1, how=how)

    rule = RULE.model_copy(update={"not_worse": {"identity_angle": 1}})
    better = measured_with("ab12", 22)
    assert promotion.compare(better, measured_with("ab12", 21), rule).is_better
    verdict = promotion.compare(better, measured_with("cd34", 21), rule)
    assert not verdict.is_better
    assert "n ab12', for the champion as" in verdict.reason


def test_a_result_without_a_score_is_a_reason_against_a_candidate() -> None:
    broken = [FaceScores("a", 0, {"psnr": {"degraded": 20.0, "restored": float("nan")}})]
    whole = [FaceScores(f"{i}", 0, {"psnr": {"degraded": 20.0, "restored": 30.0}}) for i in "bcd"]
    rule = RULE.model_copy(update={"not_worse": {}})
    candidate = comparison.result({}, {}, [*whole, *broken], {}, samples=2, seed=1)
    verdict = promotion.compare_with_input(candidate, rule)
    assert not verdict.is_better
    assert "1 of 4 results of the candidate have no psnr, the first a" in verdict.reason


def test_one_face_shows_nothing() -> None:
    verdict = promotion.compare_with_input(scores([30], [0.9]), RULE)
    assert not verdict.is_better
    assert "one face gives no interval" in verdict.reason


def test_a_metric_may_be_in_the_rule_only_once() -> None:
    with pytest.raises(ValueError, match="psnr is in both 'better' and 'not_worse'"):
        Rule(better=["psnr"], not_worse={"psnr": 1}, bootstrap_samples=1, seed=1)


def grouped(psnr: list[float], noise: str, *, angles: list[float] | None = None) -> dict[str, Any]:
    """Make a metrics file of two degradations per face: the first half of the values, the rest."""
    half = len(psnr) // 2
    rows = []
    for place, value in enumerate(psnr):
        of_face = {"psnr": {"degraded": 20.0, "restored": value}}
        if angles is not None:
            of_face["identity_angle"] = {"degraded": 90.0, "restored": angles[place]}
        rows.append(FaceScores(f"face-{place % half}", place // half, of_face))
    result = comparison.result({}, {"pairs": "9f"}, rows, {}, samples=2, seed=1)
    for face, group in zip(result["faces"], noise, strict=True):
        face["groups"] = {"noise": group}
    return result


IN_GROUPS = Rule(
    better=["psnr"],
    not_worse={},
    groups={"noise": {"psnr": 0.5}},
    bootstrap_samples=500,
    seed=3,
)


def test_a_model_that_is_better_on_average_but_worse_in_a_group_does_not_replace_another() -> None:
    before = grouped([20, 21, 22, 23, 20, 21, 22, 23], "wwwwssss")
    after = grouped([23, 24, 25, 26, 19, 20, 21, 22], "wwwwssss")  # +3 weak, -1 strong
    assert promotion.compare(after, before, RULE.model_copy(update={"not_worse": {}})).is_better
    verdict = promotion.compare(after, before, IN_GROUPS)
    assert not verdict.is_better
    assert verdict.reason == (
        "psnr where noise is s not shown to be within 0.5 (-1 dB; 95 %: -1 to -1; 4 faces)"
    )
    wide = IN_GROUPS.model_copy(update={"groups": {"noise": {"psnr": 1.0}}})
    accepted = promotion.compare(after, before, wide)
    assert accepted.is_better
    assert "psnr where noise is w not worse by more than 1 (+3 dB" in accepted.reason
    # The champion's own file may be from a time before groups were noted.
    for face in before["faces"]:
        del face["groups"]
    assert promotion.compare(after, before, IN_GROUPS) == verdict


def test_a_group_that_no_face_has_is_a_reason_against() -> None:
    scored = grouped([21, 22, 23, 24], "wwss")
    rule = IN_GROUPS.model_copy(update={"groups": {"age": {"psnr": 0.5}}})
    verdict = promotion.compare_with_input(scored, rule)
    assert not verdict.is_better
    assert verdict.reason.startswith("no test face has a group of 'age': 'evaluate.groups' names")


def test_a_model_may_show_another_person_only_so_often() -> None:
    rule = RULE.model_copy(
        update={
            "not_worse": {},
            "flagged": promotion.FlaggedParams(metric="identity_angle", above=80, share=0.25),
        }
    )
    psnr = [21.0, 22, 23, 24]
    good = promotion.compare_with_input(grouped(psnr, "wwss", angles=[10, 80, 81, 30]), rule)
    assert good.is_better
    assert good.reason.endswith(
        "1 of 4 results are above 80° in identity_angle, not more than 0.25 of them"
    )
    bad = promotion.compare_with_input(grouped(psnr, "wwss", angles=[10, 90, 81, 30]), rule)
    assert not bad.is_better
    assert bad.reason.startswith("2 of 4 results are above 80° in identity_angle, more than 0.25")
    unknown = promotion.compare_with_input(grouped(psnr, "wwss"), rule)
    assert "identity_angle was not measured for the candidate" in unknown.reason
    no_angle = rule.model_copy(
        update={"flagged": promotion.FlaggedParams(metric="psnr", above=80, share=0.25)}
    )
    verdict = promotion.compare_with_input(grouped(psnr, "wwss"), no_angle)
    assert verdict.reason == (
        "psnr is no angle between identities: name identity_angle or deg_vqfr"
    )


@pytest.mark.parametrize(
    ("low", "high", "is_better", "is_not_worse"),
    [(3, 5, True, True), (4, 9, False, True), (7, 12, False, True), (10, 14, False, False)],
)
def test_distances_of_sets_are_compared_by_their_intervals(
    low: float, high: float, is_better: bool, is_not_worse: bool
) -> None:
    def with_fid(low: float, high: float) -> dict[str, Any]:
        result = scores([21, 22], [0.7] * 2)
        restored = {"mean": (low + high) / 2, "low": low, "high": high, "n": 2, "of": 2}
        protocol = CATALOGUE["fid_vqfr"].protocol.measured({})
        entry = {"better": "lower", "unit": "", "protocol": protocol, "restored": restored}
        return {**result, "metrics": {**result["metrics"], "fid_vqfr": entry}}

    champion = with_fid(6, 8)
    must = RULE.model_copy(update={"better": ["fid_vqfr"], "not_worse": {}})
    verdict = promotion.compare(with_fid(low, high), champion, must)
    assert verdict.is_better == is_better
    assert f"95 %: {6 - high:+.4g} to {8 - low:+.4g}" in verdict.reason
    may = RULE.model_copy(update={"better": ["psnr"], "not_worse": {"fid_vqfr": 7}})
    better_faces = {**with_fid(low, high), "faces": scores([25, 26], [0.7] * 2)["faces"]}
    assert promotion.compare(better_faces, champion, may).is_better == is_not_worse
