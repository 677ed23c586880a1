"""The Fréchet distance between two sets of faces, and its interval over faces.

N faces, D features.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from components import files
from components.keyed_random import generator
from components.metrics.bootstrap import Interval

Features = npt.NDArray[np.float32]
Matrix = npt.NDArray[np.float64]

ENOUGH = 2048  # faces: with fewer, the covariance of 2048 features is singular
SAMPLES = 100  # of the bootstrap: one is a decomposition of a matrix as large as the set


@dataclass(frozen=True)
class Gaussian:
    """Mean (D,) and covariance (D, D) of a set's features."""

    mean: Matrix
    covariance: Matrix

    @classmethod
    def of(cls, features_ND: Features) -> Self:
        """Fit the features of a set. Raises: ValueError if there are fewer than two."""
        if len(features_ND) < 2:
            raise ValueError(f"a covariance needs at least 2 faces; got {len(features_ND)}")
        wide = features_ND.astype(np.float64)
        return cls(wide.mean(axis=0), np.cov(wide, rowvar=False))

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read published statistics: an `.npz` (mu, sigma), or VQFR's `.pth` (mean, cov).

        Raises: ValueError if the file holds something else.
        """
        values = _read_npz(file) if file.suffix == ".npz" else _read_pth(file)
        mean, covariance = (np.asarray(value, np.float64) for value in values)
        if mean.ndim != 1 or covariance.shape != (mean.size, mean.size):
            raise ValueError(f"{file}: a mean {mean.shape} and a covariance {covariance.shape}")
        return cls(mean, covariance)

    def write(self, file: Path) -> None:
        """Write what `read` reads, as a whole: others may read at the same time."""
        content = io.BytesIO()
        np.savez(content, mu=self.mean, sigma=self.covariance)
        files.write_bytes(file, content.getvalue())


def _read_npz(file: Path) -> tuple[object, object]:
    with np.load(file, allow_pickle=False) as content:
        if not {"mu", "sigma"} <= set(content):
            raise ValueError(f"{file} holds {', '.join(content)}, not mu and sigma")
        return content["mu"], content["sigma"]


def _read_pth(file: Path) -> tuple[object, object]:
    import numpy.dtypes

    # Arrays of NumPy are data, but torch does not know their classes. Old files name an old module.
    rebuild: Any = np.zeros(0).__reduce__()[0]
    plain = [np.ndarray, np.dtype, numpy.dtypes.Float32DType, numpy.dtypes.Float64DType]
    known = [(rebuild, "numpy.core.multiarray._reconstruct"), rebuild, *plain]
    with torch.serialization.safe_globals(known):
        content = torch.load(file, map_location="cpu", weights_only=True)
    if not {"mean", "cov"} <= set(content):
        raise ValueError(f"{file} holds {', '.join(content)}, not mean and cov")
    return content["mean"], content["cov"]


class FrechetDistance:
    """Measure sets against one reference: |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)).

    With R = C2^(1/2), X the centred features and P = X R / sqrt(N - 1), the last trace is the sum
    of the singular values of P. So a set is decomposed in as many dimensions as it has faces, and
    nothing is inverted.
    """

    def __init__(self, reference: Gaussian) -> None:
        values, vectors = np.linalg.eigh(reference.covariance)
        self._root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
        self._trace, self._mean = float(values.clip(0).sum()), reference.mean

    def intervals(
        self, sets_KND: Sequence[Features], face_ids: Sequence[str], *, seed: int
    ) -> list[Interval]:
        """Return the distance of each of K sets of the same N pictures, with its 95 % interval.

        The last item of the result is the difference of the last and the first set. Faces, with
        all pictures of each, are drawn with replacement, the same ones for each set. A drawn set
        has fewer different faces, which makes every distance larger; so the drawn distances are
        moved to the mean that belongs to all faces. One face alone has no interval.
        """
        wide = [features_ND.astype(np.float64) for features_ND in sets_KND]
        seen = [(features, features @ self._root) for features in wide]
        names = np.asarray(face_ids)
        of_face = [np.flatnonzero(names == name) for name in dict.fromkeys(face_ids)]
        measured = self._row(seen, np.arange(len(names)))
        if len(of_face) == 1:
            return [Interval(float(value), None, None, 1) for value in measured]
        random = generator(seed, "distance", 0, "bootstrap")
        drawn_SK = np.array(
            [
                self._row(seen, np.concatenate([of_face[i] for i in faces]))
                for faces in random.integers(len(of_face), size=(SAMPLES, len(of_face)))
            ]
        )
        low, high = np.quantile(drawn_SK - drawn_SK.mean(axis=0), [0.025, 0.975], axis=0)
        return [
            Interval(float(value), float(value + below), float(value + above), len(of_face))
            for value, below, above in zip(measured, low, high, strict=True)
        ]

    def _row(self, seen: list[tuple[Matrix, Matrix]], rows: npt.NDArray[np.int64]) -> Matrix:
        distances = [self._distance(x[rows], rooted[rows]) for x, rooted in seen]
        return np.array([*distances, distances[-1] - distances[0]])

    def _distance(self, features_ND: Matrix, rooted_ND: Matrix) -> float:
        centred = features_ND - features_ND.mean(axis=0)
        freedom = len(features_ND) - 1
        offset = features_ND.mean(axis=0) - self._mean
        rooted = rooted_ND - rooted_ND.mean(axis=0)
        few = rooted if len(rooted) < rooted.shape[1] else rooted.T
        shared = np.sqrt(np.linalg.eigvalsh(few @ few.T).clip(0)).sum() / np.sqrt(freedom)
        own = (centred**2).sum() / freedom
        return float(offset @ offset + own + self._trace - 2 * shared)
