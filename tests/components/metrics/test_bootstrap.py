"""What a 95 % interval promises."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from components.metrics.bootstrap import intervals

_SCORES = arrays(
    np.float64,
    st.tuples(st.integers(2, 12), st.integers(1, 3)),
    elements=st.floats(-100, 100, width=32),
)


@given(_SCORES)
@settings(max_examples=60, deadline=None)
def test_the_mean_lies_within_the_bounds_and_they_within_the_values(scores: np.ndarray) -> None:
    for column, interval in zip(scores.T, intervals(scores, samples=2000, seed=1), strict=True):
        slack = 1e-9 * (1 + np.abs(column).max())
        assert interval.low is not None
        assert interval.high is not None
        assert column.min() - slack <= interval.low <= interval.high <= column.max() + slack
        assert interval.low - slack <= interval.mean <= interval.high + slack
        assert interval.mean == pytest.approx(column.mean())
        assert interval.n == len(column)


@given(_SCORES, st.floats(-50, 50), st.floats(0.1, 10))
@settings(max_examples=30, deadline=None)
def test_a_shift_and_a_scale_move_the_bounds_along(
    scores: np.ndarray, shift: float, scale: float
) -> None:
    before = intervals(scores, samples=300, seed=3)
    after = intervals(scores * scale + shift, samples=300, seed=3)
    for one, other in zip(before, after, strict=True):
        assert one.low is not None
        assert one.high is not None
        assert other.low == pytest.approx(one.low * scale + shift, abs=1e-6)
        assert other.high == pytest.approx(one.high * scale + shift, abs=1e-6)


def test_only_the_seed_decides_the_bounds() -> None:
    scores = np.random.default_rng(0).normal(size=(40, 2))
    assert intervals(scores, samples=500, seed=1) == intervals(scores, samples=500, seed=1)
    assert intervals(scores, samples=500, seed=1) != intervals(scores, samples=500, seed=2)


def test_columns_share_their_draws_so_a_difference_is_paired() -> None:
    random = np.random.default_rng(5)
    before = random.normal(20, 5, size=60)  # faces differ much more than
    after = before + random.normal(1, 0.1, size=60)  # what was gained on each
    gain = intervals(np.stack([before, after, after - before], 1), samples=2000, seed=1)[2]
    assert gain.low is not None
    assert gain.low > 0.9


def test_95_percent_of_the_intervals_contain_the_true_mean() -> None:
    # 600 experiments of 40 faces from a skewed law of mean 1, one column each.
    scores = np.random.default_rng(7).gamma(2, 0.5, size=(40, 600))
    held = [
        interval.low <= 1 <= interval.high
        for interval in intervals(scores, samples=1000, seed=1)
        if interval.low is not None and interval.high is not None
    ]
    assert len(held) == 600
    # The percentile bootstrap falls a little short of 95 % at 40 skewed values.
    assert 0.91 < np.mean(held) < 0.97


def test_the_interval_is_as_wide_as_theory_says() -> None:
    scores = np.random.default_rng(2).normal(10, 2, size=(4000, 1))
    interval = intervals(scores, samples=4000, seed=1)[0]
    assert interval.low is not None
    assert interval.high is not None
    expected = 2 * 1.96 * scores.std() / np.sqrt(4000)
    assert interval.high - interval.low == pytest.approx(expected, rel=0.06)


def test_one_face_has_a_mean_and_no_bounds() -> None:
    interval = intervals([[3.0]], samples=100, seed=1)[0]
    assert (interval.mean, interval.low, interval.high, interval.n) == (3, None, None, 1)


def test_a_value_that_is_not_finite_is_named() -> None:
    with pytest.raises(ValueError, match="row 1, column 0"):
        intervals([[1.0], [np.inf]], samples=10, seed=1)
    with pytest.raises(ValueError, match=r"got \(0, 2\)"):
        intervals(np.empty((0, 2)), samples=10, seed=1)
