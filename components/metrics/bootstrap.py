"""Confidence intervals of means, by the bootstrap."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from components.keyed_random import generator

_DRAWS_AT_ONCE = 4_000_000  # indices held in memory


@dataclass(frozen=True)
class Interval:
    """A mean over `n` faces, and the bounds of its confidence interval.

    With one face the spread is unknown, and there are no bounds.
    """

    mean: float
    low: float | None
    high: float | None
    n: int


def intervals(
    values_NK: npt.ArrayLike, *, samples: int, seed: int, confidence: float = 0.95
) -> list[Interval]:
    """Return each column's mean with its percentile bootstrap interval.

    Rows (faces) are drawn with replacement, `samples` times, in the same way for all columns: a
    column that is the difference of two others gets its paired interval.

    Shape: values_NK float, N faces, K quantities; -> K intervals. Equal seeds give equal bounds.
    Raises: ValueError if there is no row, or a value is not finite.
    """
    values_NK = np.asarray(values_NK, dtype=np.float64)
    if values_NK.ndim != 2 or not values_NK.size:
        raise ValueError(f"intervals need values (faces, quantities); got {values_NK.shape}")
    if not np.isfinite(values_NK).all():
        row, column = np.argwhere(~np.isfinite(values_NK))[0]
        raise ValueError(f"intervals need finite values; row {row}, column {column} is not")
    num_faces = len(values_NK)
    means = values_NK.mean(axis=0)
    if num_faces == 1:
        return [Interval(float(mean), None, None, 1) for mean in means]
    random = generator(seed, "mean", 0, "bootstrap")
    step = max(1, _DRAWS_AT_ONCE // num_faces)
    drawn_SK = np.concatenate(
        [
            _drawn_means(values_NK, random, min(step, samples - start))
            for start in range(0, samples, step)
        ]
    )
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn_SK, [tail, 1 - tail], axis=0)
    return [
        Interval(float(mean), float(below), float(above), num_faces)
        for mean, below, above in zip(means, low, high, strict=True)
    ]


def _drawn_means(
    values_NK: npt.NDArray[np.float64], random: np.random.Generator, samples: int
) -> npt.NDArray[np.float64]:
    rows_SN = random.integers(len(values_NK), size=(samples, len(values_NK)))
    return np.stack([column[rows_SN].mean(axis=1) for column in values_NK.T], axis=1)
