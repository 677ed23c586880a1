"""Metrics of whole sets of faces (FID): their numbers, intervals and warnings."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from components.metrics.catalogue import How
from components.metrics.frechet import ENOUGH, SAMPLES, FrechetDistance, Gaussian
from components.reporting.scoring import TRUTH, FaceScores

_GAIN = "gain"


def summarise(
    faces: Sequence[FaceScores], how: Mapping[str, How], *, seed: int
) -> tuple[dict[str, dict[str, dict[str, Any]]], dict[str, str]]:
    """Return metric -> role -> distance with its interval; and why a metric has none.

    Only faces that have features in every role count, so that roles are compared on the same ones.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {}
    without: dict[str, str] = {}
    for name in dict.fromkeys(name for face in faces for name in face.features):
        try:
            found[name] = _summary(faces, name, how[name].reference, seed=seed)
        except ValueError as error:
            without[name] = str(error)
    return found, without


def _summary(
    faces: Sequence[FaceScores], name: str, reference: Gaussian | None, *, seed: int
) -> dict[str, dict[str, Any]]:
    present = [(face.face_id, face.features.get(name, {})) for face in faces]
    roles = list(dict.fromkeys(role for _, one in present for role in one))
    measured = [role for role in roles if role != TRUTH]
    complete = [row for row in present if all(role in row[1] for role in measured)]
    if not measured or len(complete) < 2:
        raise ValueError(f"{len(complete)} pictures are there; a distance of sets needs 2")
    if reference is None:
        truth = [one[TRUTH] for _, one in present if TRUTH in one]
        if not truth:
            raise ValueError("there is no set to compare with: name one with --reference")
        reference = Gaussian.of(np.stack(truth))
    sets = [np.stack([one[role] for _, one in complete]) for role in measured]
    drawn = FrechetDistance(reference).intervals(sets, [face for face, _ in complete], seed=seed)
    named = [*measured, _GAIN] if {"degraded", "restored"} <= set(measured) else measured
    numbers: dict[str, Any] = {"of": len({face.face_id for face in faces}), "samples": SAMPLES}
    if len(complete) < ENOUGH:
        numbers["warning"] = (
            f"{len(complete)} pictures: under {ENOUGH:,} the covariance is singular, and the "
            "distance too large"
        )
    return {
        role: {**asdict(interval), **numbers} for role, interval in zip(named, drawn, strict=False)
    }
