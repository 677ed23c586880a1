"""Score models and folders of results on faces that lie here, in folders or tables.

For a model, true faces alone are degraded first, as its training faces were according to its
lineage; for the same faces, seed and recipe, the scores are those of the stage `evaluate`. Pairs
are scored as they are given, and degraded faces alone by the metrics that need no truth.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from components.degradation import recipe as degradation
from components.degradation.recipe import DegradationParams
from components.encoders.identity import find_network
from components.faces.cutter import CANDIDATE_SCORE, Face
from components.faces.detect import open_detector
from components.hashes import sha256_of
from components.metrics.catalogue import Metric, open_metrics
from components.reporting import comparison, groups
from components.reporting.evaluation import (
    Case,
    Competitor,
    Degraded,
    Model,
    Results,
    alone,
    pairs,
    score_all,
)
from components.reporting.face_sets import Rejection, cut_faces, is_table, open_set, row_name
from components.reporting.reference import compare_with
from components.reporting.scoring import FaceScores
from components.restorers.catalogue import is_of_others
from components.restorers.together import Together
from components.tracking.trained_models import locate, open_restorer
from components.weights.manifest import RESTORER, Description

METRICS = ("psnr", "ssim", "identity_angle")
METRICS_WITHOUT_TRUTH = ("niqe", "musiq", "clipiqa", "fid_vqfr")
BOOTSTRAP_SAMPLES = 10_000
BATCH_SIZE = 8


def run(
    model: str,
    hq: Path,
    *,
    seed: int,
    recipe: DegradationParams | None = None,
    metrics: Sequence[str] = METRICS,
    identity_network: Path | None = None,
    batch_size: int = BATCH_SIZE,
) -> dict[str, Any]:
    """Score a restorer on a folder of faces; return the content of a metrics file.

    Square pictures count as FFHQ-aligned faces; those in the folder's `landmarks.csv` are aligned
    first. `recipe` replaces the degradation that the model was trained with.

    Raises: as `components.tracking.trained_models.open_restorer`; ValueError if no picture can be
    used, or how to degrade is not known.
    """
    wanted = Wanted(hq=hq, models=(model,), metrics=tuple(metrics))
    (result,) = evaluate(
        wanted, seed=seed, recipe=recipe, identity_network=identity_network, batch_size=batch_size
    )
    return result


@dataclass(frozen=True)
class Wanted:
    """What is scored, on which faces. Without models and results, the degraded faces are.

    `hq` and `lq` are folders or tables; `reference` is a set that FID compares with; `endings` are
    left out of names before they are matched.
    """

    hq: Path | None = None
    lq: Path | None = None
    models: tuple[str, ...] = ()
    results: tuple[Path, ...] = ()
    reference: Path | None = None
    detector: Path | None = None
    endings: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    groups: Path | None = None  # a groups.csv

    def __post_init__(self) -> None:
        if self.hq is None and self.lq is None:
            raise ValueError("name the faces: --hq, --lq or both")
        if self.lq is None and not self.models and not self.results:
            raise ValueError("there is nothing to score: name a model, results or degraded faces")
        if self.detector is not None and self.hq is not None and self.lq is not None:
            raise ValueError("pairs must be aligned already: a detector cuts two pictures apart")
        if self.detector is not None and not self.models:
            raise ValueError("a detector cuts faces to the size of a model: name one")

    @property
    def is_degraded_here(self) -> bool:
        return self.lq is None and bool(self.models)

    def chosen_metrics(self) -> tuple[str, ...]:
        return self.metrics or (METRICS if self.hq is not None else METRICS_WITHOUT_TRUTH)


def evaluate(
    wanted: Wanted,
    *,
    seed: int,
    recipe: DegradationParams | None = None,
    identity_network: Path | None = None,
    batch_size: int = BATCH_SIZE,
) -> list[dict[str, Any]]:
    """Score all that is wanted on the same faces; return the contents of metrics files.

    Raises: as `run`; ValueError if models restore faces of several sizes.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as downloads:
        if recipe is None and wanted.is_degraded_here:
            recipe = recipe_of(wanted.models[0], Path(downloads))
        together = Together()  # they restore the same batches in turn
        restorers = [
            open_restorer(name, Path(downloads), device=device, together=together)
            for name in wanted.models
        ]
        competitors: list[Competitor] = [
            *(Model(restorer) for restorer in restorers),
            *(_results(folder, wanted) for folder in wanted.results),
        ]
        sizes = sorted({restorer.size for restorer in restorers})
        if len(sizes) > 1:
            raise ValueError(f"the models restore faces of {sizes} pixels: score them one by one")
        metrics, unavailable = open_metrics(
            wanted.chosen_metrics(), identity_network=identity_network, device=device
        )
        _prepare(metrics, unavailable, wanted, batch_size)
        faces = _Faces(wanted, sizes[0] if sizes else None, recipe, seed)
        scored = competitors or [Degraded()]
        rows = score_all(faces, scored, metrics, batch_size=batch_size)
        protocol = faces.protocol()
        if identity_network is not None:
            protocol["identity_network"] = sha256_of(find_network(identity_network))
        return [
            _result(one, scores, faces, metrics, protocol, unavailable)
            for one, scores in zip(scored, rows, strict=True)
        ]


def _results(place: Path, wanted: Wanted) -> Results:
    return Results(place.name, open_set(place, column="sr_png", endings=wanted.endings))


def _prepare(
    metrics: dict[str, Metric], unavailable: dict[str, str], wanted: Wanted, batch_size: int
) -> None:
    """Give FID the faces that are named, and set aside what needs true faces if there are none."""
    for name, metric in list(metrics.items()):
        if wanted.hq is None and metric.entry.needs_truth:
            del metrics[name]
            unavailable[name] = "it needs the true faces: name them with --hq"
    if wanted.reference is not None and "fid_folders" in metrics:
        faces = open_set(wanted.reference, column="hq_png")
        compare_with(metrics["fid_folders"], faces, batch_size=batch_size)


class _Faces:
    """The faces that all competitors are scored on; each pass over them gives the same ones."""

    def __init__(
        self, wanted: Wanted, size: int | None, recipe: DegradationParams | None, seed: int
    ) -> None:
        self.wanted, self.size, self.recipe, self.seed = wanted, size, recipe, seed
        self.rejected: list[Rejection] = []
        self.sides: set[int] = set()  # in pixels, of the faces that were given
        self.drawn: dict[str, dict[str, float]] = {}  # by name: how much a face was degraded
        self.columns: dict[str, dict[str, str]] = {}
        if wanted.groups is not None:
            self.columns = groups.parse(wanted.groups.read_text(encoding="utf-8-sig"))
        self.detector = None
        if wanted.detector is not None:
            self.detector = open_detector(wanted.detector, min_score=CANDIDATE_SCORE)

    def protocol(self) -> dict[str, Any]:
        """Return what scores depend on beside the competitor; known when all faces were given."""
        wanted = self.wanted
        sides = {"faces": str(wanted.hq or wanted.lq)}
        if wanted.hq is not None and wanted.lq is not None:
            sides["degraded"] = str(wanted.lq)
        made: dict[str, Any] = {"sizes": sorted(self.sides)}
        if len(self.sides) == 1:
            made = {"size": next(iter(self.sides))}
        if self.recipe is None or not wanted.is_degraded_here:
            return {**sides, **made}
        degradation = self.recipe.model_dump(mode="json")
        return {**sides, **made, "degradation": degradation, "degradation_seed": self.seed}

    def __iter__(self) -> Iterator[Case]:
        self.rejected.clear()
        for case in self._cases():
            self.sides.add(case.side)
            yield case

    def _cases(self) -> Iterator[Case]:
        wanted, size = self.wanted, self.size
        if wanted.is_degraded_here and self.recipe is not None:
            yield from self._degraded(self.recipe)
        elif wanted.hq is not None:
            hq = open_set(wanted.hq, column="hq_png", endings=wanted.endings)
            lq = None
            if wanted.lq is not None:
                lq = open_set(wanted.lq, column="lq_png", endings=wanted.endings)
            yield from pairs(hq, lq, self.rejected, size=size)
        elif wanted.lq is not None and size is not None and self.detector is not None:
            for face in cut_faces(wanted.lq, size, self.rejected, self.detector):
                name = row_name(face.face_id, 0, wanted.endings)
                yield Case(name, face.face_id, 0, None, face.hq, size)
        elif wanted.lq is not None:
            lq = open_set(wanted.lq, column="lq_png", endings=wanted.endings)
            yield from alone(lq, self.rejected, size=size)

    def _degraded(self, recipe: DegradationParams) -> Iterator[Case]:
        """Degrade each face once, as the stage `degrade` makes its first variant."""
        assert self.size is not None
        for face in self._true_faces(self.size):
            drawn = degradation.draw(
                recipe, face.hq.shape[:2], seed=self.seed, face_id=face.face_id, variant=0
            )
            target, lq = degradation.make_pair(face.hq, drawn, recipe)
            name = row_name(face.face_id, 0, self.wanted.endings)
            self.drawn[row_name(face.face_id, 0)] = groups.severity_of(drawn.record())
            yield Case(name, face.face_id, 0, target, lq, self.size)

    def _true_faces(self, size: int) -> Iterator[Face]:
        assert self.wanted.hq is not None
        if not is_table(self.wanted.hq):
            yield from cut_faces(self.wanted.hq, size, self.rejected, self.detector)
            return
        table = open_set(self.wanted.hq, column="hq_png")
        for case in pairs(table, None, self.rejected, size=size):
            assert case.hq is not None
            yield Face(case.face_id, case.hq)


def _result(
    competitor: Competitor,
    scores: Sequence[FaceScores],
    faces: _Faces,
    metrics: Mapping[str, Metric],
    protocol: Mapping[str, Any],
    unavailable: Mapping[str, str],
) -> dict[str, Any]:
    if not scores:
        told = ", ".join(f"{name}: {reason}" for name, reason in faces.rejected[:1])
        raise ValueError(
            f"no usable face in {protocol['faces']}: {len(faces.rejected)} pictures were "
            f"rejected, {told}"
        )
    result = comparison.result(
        competitor.facts,
        protocol,
        scores,
        unavailable,
        samples=BOOTSTRAP_SAMPLES,
        seed=faces.seed,
        how={name: metric.how for name, metric in metrics.items()},
    )
    role = "restored" if "restored" in next(iter(scores[0].scores.values()), {}) else "degraded"
    columns = {**faces.columns, **groups.severity(faces.drawn)}
    return {
        **groups.add(result, columns, samples=BOOTSTRAP_SAMPLES, seed=faces.seed, role=role),
        "rejected": [{"id": name, "reason": reason} for name, reason in faces.rejected],
        "unused": competitor.unused(),
    }


def recipe_of(model: str, downloads: Path) -> DegradationParams:
    """Read from a trained folder's lineage how its training faces were degraded.

    Raises: ValueError if that is not known.
    """
    if is_of_others(model):
        raise ValueError(
            f"{model}: how its training faces were degraded is not known here: give --params FILE, "
            "whose degrade.recipe is used"
        )
    folder = locate(model, downloads).folder
    params = Description.read(folder, RESTORER).content["lineage"].get("params", {})
    recipe = params.get("degrade", {}).get("recipe")
    if recipe is None:
        raise ValueError(
            f"{folder} does not say how its faces were degraded (lineage.params.degrade.recipe): "
            "name a recipe"
        )
    try:
        return DegradationParams.model_validate(recipe)
    except ValidationError as error:
        raise ValueError(f"{folder} was trained with a recipe unknown here: {error}") from error
