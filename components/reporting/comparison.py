"""Compare degraded, intermediate and restored faces with the true ones, and summarise.

B batch. Images are RGB; scores are of 8-bit pictures, as a user gets them.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from components import images
from components.images import Image
from components.metrics import bootstrap
from components.metrics.catalogue import CATALOGUE, How, Metric, how_of
from components.reporting import scoring, set_scores
from components.reporting.scoring import FaceScores, Failures, Features, Scores
from components.restorers.protocol import RestoresFaces

__all__ = ["GAIN", "ROLES", "Compared", "Comparison", "FaceScores", "Pair", "Scores"]

ROLES = ("degraded", "intermediate", "restored")
GAIN = "gain"  # restored minus degraded, face by face
_INTERVAL = ("mean", "low", "high", "n", "of")


@dataclass(frozen=True)
class Pair:
    """A true face and its degraded twin, of one size."""

    face_id: str
    variant: int
    hq: Image
    lq: Image


@dataclass(frozen=True)
class Compared:
    """A model's result for one pair. `gate` is SDFM's alpha (h, w) in [0, 1], if there is one."""

    pair: Pair
    intermediate: Image | None
    restored: Image
    gate: npt.NDArray[np.float32] | None
    scores: Scores
    features: Features = field(default_factory=dict)
    failures: Failures = field(default_factory=dict)

    def row(self) -> FaceScores:
        """Return what is kept of it when the pictures are gone."""
        pair = self.pair
        return FaceScores(pair.face_id, pair.variant, self.scores, self.features, self.failures)


class Comparison:
    """Restore pairs with a model and score every role against the true face."""

    def __init__(
        self, restorer: RestoresFaces, metrics: Mapping[str, Metric], *, device: torch.device
    ) -> None:
        self.restorer, self.metrics, self.device = restorer, metrics, device

    def __call__(self, pairs: Sequence[Pair]) -> list[Compared]:
        """Compare one batch; the faces are of one size."""
        faces = [(pair.face_id, pair.variant) for pair in pairs]
        lqs = [pair.lq for pair in pairs]
        restored = restore(self.restorer, lqs, faces, device=self.device)
        shown = {"degraded": lqs, **restored.pictures}
        rows = scoring.score(
            faces,
            {role: shown[role] for role in ROLES if role in shown},
            [pair.hq for pair in pairs],
            self.metrics,
            restored.failures,
        )
        intermediate, gates = restored.pictures.get("intermediate"), restored.gates
        return [
            Compared(
                pair,
                None if intermediate is None else intermediate[i],
                restored.pictures["restored"][i],
                None if gates is None else gates[i],
                rows[i].scores,
                rows[i].features,
                rows[i].failures,
            )
            for i, pair in enumerate(pairs)
        ]


class Restored(NamedTuple):
    """What a model made of a batch: pictures by role, and why some of them are none."""

    pictures: dict[str, list[Image]]
    failures: list[Failures]
    gates: npt.NDArray[np.float32] | None


def restore(
    restorer: RestoresFaces,
    lqs: Sequence[Image],
    faces: Sequence[tuple[str, int]],
    *,
    device: torch.device,
) -> Restored:
    """Restore a batch of faces, (id, variant), of one size, as 8-bit pictures."""
    restoration = restorer.restore(
        images.to_tensor(lqs, device),
        [face_id for face_id, _ in faces],
        [variant for _, variant in faces],
    )
    results = {"restored": restoration.restored_B3HW}
    if restoration.intermediate_B3HW is not None:
        results["intermediate"] = restoration.intermediate_B3HW
    alpha = restoration.alpha_BHW
    return Restored(
        {role: images.from_tensor(result) for role, result in results.items()},
        _not_finite(results, len(faces)),
        None if alpha is None else alpha.detach().float().cpu().numpy(),
    )


def _not_finite(results: Mapping[str, Tensor], num_faces: int) -> list[Failures]:
    """Name the results with numbers that no picture can hold."""
    found: list[Failures] = [{} for _ in range(num_faces)]
    for role, result_B3HW in results.items():
        finite = torch.isfinite(result_B3HW.detach()).flatten(1).all(dim=1).tolist()
        for failures, is_finite in zip(found, finite, strict=True):
            if not is_finite:
                failures[role] = "not finite"
    return found


def summarise(
    faces: Sequence[FaceScores], *, samples: int, seed: int
) -> dict[str, dict[str, dict[str, Any]]]:
    """Return metric -> role or `gain` -> mean, low, high (95 % bootstrap interval), n and of.

    n counts the faces that have a score, `of` those that are there: several degradations of one
    face are averaged first, since they are not independent. `gain` is restored minus degraded,
    paired by face: above 0 is better if higher scores are better, below 0 if lower ones are.
    A metric that has no score at all in a role is left out.
    """
    if not faces:
        raise ValueError("no face was scored, so there is nothing to summarise")
    metrics = {name: list(roles) for name, roles in faces[0].scores.items()}
    found = {
        name: _summary(_by_face(faces, name, roles), roles, samples=samples, seed=seed)
        for name, roles in metrics.items()
    }
    return {name: roles for name, roles in found.items() if roles}


def _by_face(
    faces: Iterable[FaceScores], metric: str, roles: Sequence[str]
) -> npt.NDArray[np.float64]:
    """Return scores (faces, roles), averaged over the variants of a face; NaN without a score."""
    rows: dict[str, list[list[float]]] = {}
    for face in faces:
        rows.setdefault(face.face_id, []).append([face.scores[metric][role] for role in roles])
    return np.array([_mean_of_scored(np.array(variants)) for variants in rows.values()])


def _mean_of_scored(variants_VK: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    if np.isfinite(variants_VK).all():
        return np.asarray(np.mean(variants_VK, axis=0))
    counts = np.isfinite(variants_VK).sum(axis=0)
    sums = np.where(np.isfinite(variants_VK), variants_VK, 0).sum(axis=0)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _summary(
    scores_NK: npt.NDArray[np.float64], roles: Sequence[str], *, samples: int, seed: int
) -> dict[str, dict[str, Any]]:
    columns, named = [scores_NK], list(roles)
    if {"restored", "degraded"} <= set(roles):
        gain_N = scores_NK[:, roles.index("restored")] - scores_NK[:, roles.index("degraded")]
        columns, named = [scores_NK, gain_N[:, None]], [*roles, GAIN]
    columns_NK = np.concatenate(columns, axis=1)
    scored_NK = np.isfinite(columns_NK)
    found: dict[str, dict[str, Any]] = {}
    # Columns of the same faces are drawn together, so that their intervals stay paired.
    for mask in dict.fromkeys(map(tuple, scored_NK.T.tolist())):
        if not any(mask):
            continue
        chosen = [i for i in range(len(named)) if tuple(scored_NK[:, i].tolist()) == mask]
        rows = columns_NK[np.array(mask)][:, chosen]
        drawn = bootstrap.intervals(rows, samples=samples, seed=seed)
        for i, interval in zip(chosen, drawn, strict=True):
            found[named[i]] = {**asdict(interval), "of": len(mask)}
    return {role: found[role] for role in named} if len(found) == len(named) else {}


def model_facts(name: str, content: Mapping[str, Any]) -> dict[str, str]:
    """Return which model was scored, for a metrics file; `content` is that of `restorer.json`."""
    known = ("fingerprint", "kind", "backbone", "condition")
    training = {"training": content.get("lineage", {}).get("training")}  # MLflow's run has it
    facts = {key: content[key] for key in known if key in content}
    return {"name": name, **facts, **(training if training["training"] else {})}


def result(
    model: Mapping[str, Any],
    protocol: Mapping[str, Any],
    faces: Sequence[FaceScores],
    unavailable: Mapping[str, str],
    *,
    samples: int,
    seed: int,
    how: Mapping[str, How] | None = None,
) -> dict[str, Any]:
    """Make the content of a metrics file: every number, and how it was measured.

    `model` says which model was scored, `protocol` on which faces, `how` by which protocol each
    metric was measured (by default that of the catalogue, without the files' hashes).
    """
    measured = {name: how_of(name) for name in CATALOGUE} | dict(how or {})
    summary = summarise(faces, samples=samples, seed=seed)
    sets, without = set_scores.summarise(faces, measured, seed=seed)
    lacking = {
        name: f"no face has a score in every role; left out: {measured[name].protocol['left_out']}"
        for name in faces[0].scores
        if name not in summary
    }
    return {
        "model": dict(model),
        "protocol": {**protocol, "confidence": 0.95, "bootstrap_samples": samples, "seed": seed},
        "metrics": {
            name: {
                "better": CATALOGUE[name].direction,
                "unit": CATALOGUE[name].unit,
                "protocol": measured[name].protocol,
                **roles,
            }
            for name, roles in {**summary, **sets}.items()
        },
        "unavailable": {**unavailable, **lacking, **without},
        "failures": [
            {"face_id": face.face_id, "variant": face.variant, "role": role, "reason": reason}
            for face in faces
            for role, reason in face.failures.items()
        ],
        "faces": [
            {"face_id": face.face_id, "variant": face.variant, "scores": _as_json(face.scores)}
            for face in faces
        ],
    }


def _as_json(scores: Scores) -> dict[str, dict[str, float | None]]:
    """Return scores as JSON has them: null where there is none."""
    return {
        metric: {role: None if math.isnan(value) else value for role, value in roles.items()}
        for metric, roles in scores.items()
    }


def intervals_of(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the summary of a metrics file: metric -> role -> interval."""
    return {
        name: {
            role: {key: value for key, value in metric[role].items() if key in _INTERVAL}
            for role in (*ROLES, GAIN)
            if role in metric
        }
        for name, metric in result["metrics"].items()
    }
