"""Compare degraded, intermediate and restored faces with the true ones, and summarise.

B batch. Images are RGB; scores are of 8-bit pictures, as a user gets them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from components import images
from components.images import Image
from components.metrics import bootstrap
from components.metrics.catalogue import CATALOGUE, Metric
from components.restorers.protocol import RestoresFaces

ROLES = ("degraded", "intermediate", "restored")
GAIN = "gain"  # restored minus degraded, face by face

Scores = dict[str, dict[str, float]]  # metric -> role -> score


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


class Comparison:
    """Restore pairs with a model and score every role against the true face."""

    def __init__(
        self, restorer: RestoresFaces, metrics: Mapping[str, Metric], *, device: torch.device
    ) -> None:
        self.restorer, self.metrics, self.device = restorer, metrics, device

    def __call__(self, pairs: Sequence[Pair]) -> list[Compared]:
        """Compare one batch; the faces are of one size."""
        restoration = self.restorer.restore(
            images.to_tensor([pair.lq for pair in pairs], self.device),
            [pair.face_id for pair in pairs],
            [pair.variant for pair in pairs],
        )
        pictures = {
            "degraded": [pair.lq for pair in pairs],
            "restored": images.from_tensor(restoration.restored_B3HW),
        }
        if restoration.intermediate_B3HW is not None:
            pictures["intermediate"] = images.from_tensor(restoration.intermediate_B3HW)
        scores = self._score(pictures, images.to_tensor([pair.hq for pair in pairs]))
        alpha = restoration.alpha_BHW
        gates = None if alpha is None else alpha.detach().float().cpu().numpy()
        return [
            Compared(
                pair,
                pictures["intermediate"][i] if "intermediate" in pictures else None,
                pictures["restored"][i],
                None if gates is None else gates[i],
                scores[i],
            )
            for i, pair in enumerate(pairs)
        ]

    def _score(self, pictures: Mapping[str, Sequence[Image]], hq_B3HW: Tensor) -> list[Scores]:
        scores: list[Scores] = [{name: {} for name in self.metrics} for _ in hq_B3HW]
        for role in (role for role in ROLES if role in pictures):
            pictures_B3HW = images.to_tensor(pictures[role])
            for name, metric in self.metrics.items():
                for face, score in zip(scores, metric(pictures_B3HW, hq_B3HW), strict=True):
                    face[name][role] = float(score)
        return scores


@dataclass(frozen=True)
class FaceScores:
    """The scores of one degradation of one face."""

    face_id: str
    variant: int
    scores: Scores


def summarise(
    faces: Sequence[FaceScores], *, samples: int, seed: int
) -> dict[str, dict[str, dict[str, Any]]]:
    """Return metric -> role or `gain` -> mean, low, high (95 % bootstrap interval) and n.

    n counts faces: several degradations of one face are averaged first, since they are not
    independent. `gain` is restored minus degraded, paired by face: above 0 is better if higher
    scores are better, below 0 if lower ones are.
    """
    if not faces:
        raise ValueError("no face was scored, so there is nothing to summarise")
    metrics = {name: list(roles) for name, roles in faces[0].scores.items()}
    return {
        name: _summary(_by_face(faces, name, roles), roles, samples=samples, seed=seed)
        for name, roles in metrics.items()
    }


def _by_face(
    faces: Iterable[FaceScores], metric: str, roles: Sequence[str]
) -> npt.NDArray[np.float64]:
    """Return scores (faces, roles), averaged over the variants of a face."""
    rows: dict[str, list[list[float]]] = {}
    for face in faces:
        rows.setdefault(face.face_id, []).append([face.scores[metric][role] for role in roles])
    return np.array([np.mean(variants, axis=0) for variants in rows.values()])


def _summary(
    scores_NK: npt.NDArray[np.float64], roles: Sequence[str], *, samples: int, seed: int
) -> dict[str, dict[str, Any]]:
    gain_N = scores_NK[:, roles.index("restored")] - scores_NK[:, roles.index("degraded")]
    columns_NK = np.column_stack([scores_NK, gain_N])
    found = bootstrap.intervals(columns_NK, samples=samples, seed=seed)
    return {role: asdict(interval) for role, interval in zip([*roles, GAIN], found, strict=True)}


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
) -> dict[str, Any]:
    """Make the content of a metrics file: every number, and how it was measured.

    `model` says which model was scored, `protocol` on which faces.
    """
    summary = summarise(faces, samples=samples, seed=seed)
    return {
        "model": dict(model),
        "protocol": {**protocol, "confidence": 0.95, "bootstrap_samples": samples, "seed": seed},
        "metrics": {
            name: {
                "better": CATALOGUE[name].direction,
                "unit": CATALOGUE[name].unit,
                "protocol": CATALOGUE[name].protocol,
                **roles,
            }
            for name, roles in summary.items()
        },
        "unavailable": dict(unavailable),
        "faces": [asdict(face) for face in faces],
    }


def intervals_of(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the summary of a metrics file: metric -> role -> interval."""
    return {
        name: {role: metric[role] for role in (*ROLES, GAIN) if role in metric}
        for name, metric in result["metrics"].items()
    }
