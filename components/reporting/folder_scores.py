"""Score models and folders of results on faces that lie here, in folders or tables.

For a model, true faces alone are degraded first, as its training faces were according to its
lineage; for the same faces, seed and recipe, the scores are those of the stage `evaluate`. Pairs
are scored as they are given, and degraded faces alone by the metrics that need no truth.

Parts of the faces are shared among workers, on a cluster or where workers have GPUs; otherwise this
process scores them all. The scores of a part do not depend on who makes them.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import ValidationError

from components import cluster
from components.degradation.recipe import DegradationParams
from components.metrics.catalogue import How, Metric
from components.params import Compute
from components.reporting import comparison, groups
from components.reporting.evaluation import Competitor, Degraded, Model, Results, score_all
from components.reporting.face_sets import FaceSet, open_set
from components.reporting.given_faces import METRICS, GivenFaces, Met, Wanted
from components.reporting.reference import compare_with
from components.reporting.scoring import FaceScores
from components.reporting.sharing import (
    SharedMetrics,
    SharedModel,
    SharedOther,
    score_parts,
    share_restorer,
)
from components.restorers.catalogue import is_of_others
from components.restorers.together import Together
from components.storage import data_root
from components.tracking.trained_models import locate
from components.weights.manifest import RESTORER, Description

__all__ = ["METRICS", "Wanted", "evaluate", "recipe_of", "run"]

BOOTSTRAP_SAMPLES = 10_000
BATCH_SIZE = 8
_SET_METRIC = "fid_folders"  # compares with the faces of `reference`


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


def evaluate(
    wanted: Wanted,
    *,
    seed: int,
    recipe: DegradationParams | None = None,
    identity_network: Path | None = None,
    batch_size: int = BATCH_SIZE,
    compute: Compute | None = None,
) -> list[dict[str, Any]]:
    """Score all that is wanted on the same faces; return the contents of metrics files.

    `compute` says what workers need; by default, each has one CPU.

    Raises: as `run`; ValueError if models restore faces of several sizes.
    """
    compute = compute or Compute()
    columns = {}
    if wanted.groups is not None:
        columns = groups.parse(wanted.groups.read_text(encoding="utf-8-sig"))
    with tempfile.TemporaryDirectory() as downloads:
        if recipe is None and wanted.is_degraded_here:
            recipe = recipe_of(wanted.models[0], Path(downloads))
        faces = GivenFaces(wanted, recipe, seed)
        task = _task(wanted, faces, identity_network, batch_size, _device(compute), Path(downloads))
        scored = _score(task, faces.names(), compute)
    return _results(scored, columns, task)


class Task(NamedTuple):
    """What every worker needs to score parts of the faces."""

    faces: GivenFaces
    models: Sequence[SharedModel | SharedOther]
    results: Sequence[tuple[str, FaceSet]]  # with their names
    metrics: SharedMetrics
    reference: How | None  # how `fid_folders` is measured, if its faces are named
    batch_size: int
    device: str


class Part(NamedTuple):
    """Some of the pictures, by name."""

    names: Sequence[str]
    is_first: bool  # its result says how everything is measured: once is enough


class Measured(NamedTuple):
    """What was scored, and how."""

    facts: Sequence[Mapping[str, Any]]  # of each competitor
    unavailable: dict[str, str]  # metrics that cannot be measured here, and why
    how: dict[str, How]


class Scored(NamedTuple):
    """The scores of a part or of all faces: one list per competitor."""

    rows: list[list[FaceScores]]
    met: Met
    measured: Measured | None


def _device(compute: Compute) -> str:
    """Return where a worker computes; this process alone takes a GPU that it sees."""
    is_alone = not cluster.on_cluster() and torch.cuda.is_available()
    return "cuda" if compute.gpus or is_alone else "cpu"


def _task(
    wanted: Wanted,
    faces: GivenFaces,
    identity_network: Path | None,
    batch_size: int,
    device: str,
    downloads: Path,
) -> Task:
    root = data_root() if cluster.on_cluster() else None
    results = [
        (place.name, open_set(place, column="sr_png", endings=wanted.endings).shared(root))
        for place in wanted.results
    ]
    metrics = SharedMetrics.of(wanted.chosen_metrics(), identity_network)
    return Task(
        faces.shared(),
        [share_restorer(name, downloads) for name in wanted.models],
        results,
        metrics,
        _reference(wanted, metrics, batch_size),
        batch_size,
        device,
    )


def _reference(wanted: Wanted, metrics: SharedMetrics, batch_size: int) -> How | None:
    """Sum up the faces that FID compares with, here and once for all workers."""
    if wanted.reference is None or _SET_METRIC not in metrics.names:
        return None
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    opened, _ = SharedMetrics([_SET_METRIC], None).open(device)
    if _SET_METRIC not in opened:
        return None
    compare_with(
        opened[_SET_METRIC], open_set(wanted.reference, column="hq_png"), batch_size=batch_size
    )
    return opened[_SET_METRIC].how


def _score(task: Task, names: Sequence[str], compute: Compute) -> Scored:
    """Score all faces, in parts of as many pictures as are scored at once."""
    firsts = range(0, len(names), task.batch_size)
    parts = [Part(names[first : first + task.batch_size], first == 0) for first in firsts]
    rows: list[list[FaceScores]] = [[] for _ in range(max(1, len(task.models) + len(task.results)))]
    met, measured = Met(), None
    for part in score_parts(compute, parts, [len(part.names) for part in parts], start, task):
        for kept, more in zip(rows, part.rows, strict=True):
            kept += more
        met.add(part.met)
        measured = measured or part.measured
    return Scored(rows, met, measured)


def start(task: Task) -> Callable[[Part], Scored]:
    """Load the models and the metrics in this process; return what scores a part.

    Raises: as `evaluate`.
    """
    device, together = torch.device(task.device), Together()  # models restore a batch in turn
    restorers = [model.open(device, together) for model in task.models]
    sizes = sorted({restorer.size for restorer in restorers})
    if len(sizes) > 1:
        raise ValueError(f"the models restore faces of {sizes} pixels: score them one by one")
    size = sizes[0] if sizes else None
    competitors: list[Competitor] = [
        *(Model(restorer) for restorer in restorers),
        *(Results(name, pictures) for name, pictures in task.results),
    ] or [Degraded()]
    metrics, unavailable = _open_metrics(task, device)
    measured = Measured(
        [one.facts for one in competitors],
        unavailable,
        {name: metric.how for name, metric in metrics.items()},
    )

    def score(part: Part) -> Scored:
        met = Met()
        cases = task.faces.cases(part.names, size, met)
        rows = score_all(cases, competitors, metrics, batch_size=task.batch_size)
        return Scored(rows, met, measured if part.is_first else None)

    return score


def _open_metrics(task: Task, device: torch.device) -> tuple[dict[str, Metric], dict[str, str]]:
    """Give FID the faces that are named, and set aside what needs true faces if there are none."""
    metrics, unavailable = task.metrics.open(device)
    for name, metric in list(metrics.items()):
        if task.faces.wanted.hq is None and metric.entry.needs_truth:
            del metrics[name]
            unavailable[name] = "it needs the true faces: name them with --hq"
    if task.reference is not None and _SET_METRIC in metrics:
        metrics[_SET_METRIC].how = task.reference
    return metrics, unavailable


def _results(
    scored: Scored, columns: Mapping[str, groups.Column], task: Task
) -> list[dict[str, Any]]:
    """Make the content of each competitor's metrics file."""
    faces, met = task.faces, scored.met
    protocol = faces.protocol(met)
    if not met.names or scored.measured is None:
        told = ", ".join(f"{name}: {reason}" for name, reason in met.rejected[:1])
        raise ValueError(
            f"no usable face in {protocol['faces']}: {len(met.rejected)} pictures were "
            f"rejected, {told}"
        )
    if task.metrics.identity_network is not None:
        protocol["identity_network"] = task.metrics.identity_network.sha256
    asked = set(met.names)
    unused = [
        sorted(name for name in pictures.names() if name not in asked)
        for _, pictures in task.results
    ]
    columns = {**columns, **groups.severity(met.drawn)}
    found = []
    for facts, rows in zip(scored.measured.facts, scored.rows, strict=True):
        result = comparison.result(
            facts,
            protocol,
            rows,
            scored.measured.unavailable,
            samples=BOOTSTRAP_SAMPLES,
            seed=faces.seed,
            how=scored.measured.how,
        )
        found.append(_with_groups(result, columns, seed=faces.seed))
    rejected = [{"id": name, "reason": reason} for name, reason in met.rejected]
    return [
        {**result, "rejected": rejected, "unused": left}
        for result, left in zip(found, [*([] for _ in task.models), *unused] or [[]], strict=True)
    ]


def _with_groups(
    result: Mapping[str, Any], columns: Mapping[str, groups.Column], *, seed: int
) -> dict[str, Any]:
    scores = result["faces"][0]["scores"]
    role = "restored" if "restored" in next(iter(scores.values()), {}) else "degraded"
    return groups.add(result, columns, samples=BOOTSTRAP_SAMPLES, seed=seed, role=role)


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
