"""Stage `evaluate`: restore the test split with one trained model and score it (METHOD 7).

reads   pairs               face_id, variant, split, hq_png, lq_png: bytes (RGB),
                            sigma_x, sigma_y, scale, noise_sigma, jpeg_quality
        models/B-C          a trained folder
        groups.csv          file: str, columns by which faces are grouped
writes  metrics/models/B-C.json    model, protocol, metrics with intervals, scores of every face,
                            scores by group, what got worse
        galleries/B-C/      PNGs of some faces, and of those that got worse; gallery.json
It logs both into the training's MLflow run.

Shards of the pairs are shared among workers, on a cluster or where workers have GPUs; otherwise
this process scores them all. A shard's scores do not depend on who makes them.
"""

import logging
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import Field, NonNegativeInt, PositiveInt, StringConstraints

from components import files, images
from components.faces.split import spread
from components.metrics.catalogue import CATALOGUE, How
from components.params import Compute, Params, one_of
from components.reporting import comparison, groups
from components.reporting.comparison import Compared, Comparison, FaceScores, Pair
from components.reporting.face_sets import row_name
from components.reporting.gallery import Gallery, make_picture
from components.reporting.sharing import SharedMetrics, SharedModel, score_parts
from components.reporting.worst import Worst
from components.restorers.catalogue import kind_of
from components.tables import Table
from components.tracking import presented, runs
from components.weights.manifest import RESTORER, Description
from components.weights.shared import SharedFile
from components.weights.store import open_model
from pipelines import stage

log = logging.getLogger(__name__)

SECTION = "evaluate"
ALWAYS = "identity_angle"  # always measured: if it is unavailable, the result says why
_COLUMNS = ["face_id", "variant", "split", "hq_png", "lq_png"]
_DRAWN = ["sigma_x", "sigma_y", "scale", "noise_sigma", "jpeg_quality"]

ModelName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
MetricName = Annotated[str, one_of(CATALOGUE)]


class EvaluateParams(Params):
    pairs: Path
    models: Path  # the folder of trained folders
    scores: Path  # the folder of metrics files
    galleries: Path
    metrics: Annotated[list[MetricName], Field(min_length=1)]
    identity_network: Path | None  # an ONNX file or an InsightFace pack
    bootstrap_samples: PositiveInt
    seed: int  # of the bootstrap
    gallery: NonNegativeInt  # faces
    failures: NonNegativeInt  # faces that got worse, with pictures
    groups: Path  # a groups.csv
    batch_size: PositiveInt


def run(params: EvaluateParams, compute: Compute, name: ModelName) -> None:
    """Score the restorer folder `models/NAME` on the test split of the pairs.

    Raises: ValueError if no pair is in the test split, or the pairs have another size than the
    model.
    """
    pairs = Table.open(params.pairs).shared()
    columns = _columns(pairs, params.groups)
    model = params.models / name
    task = Task(
        pairs,
        SharedModel.of(model),
        SharedMetrics.of(list(dict.fromkeys([*params.metrics, ALWAYS])), params.identity_network),
        params.batch_size,
        params.failures,
        "cuda" if compute.gpus else "cpu",
    )
    scored = _score(task, _shares(pairs, params), compute)
    for metric, reason in scored.unavailable.items():
        log.warning("%s is not measured: %s", metric, reason)
    result = comparison.result(
        comparison.model_facts(name, open_model(model).content),
        _protocol(pairs, scored.size, task.metrics.identity_network),
        scored.scores,
        scored.unavailable,
        samples=params.bootstrap_samples,
        seed=params.seed,
        how=scored.how,
    )
    result = groups.add(result, columns, samples=params.bootstrap_samples, seed=params.seed)
    gallery = Gallery.of(name, scored.shown, scored.failed)
    gallery.write(params.galleries / name)
    files.write_json(params.scores / f"{name}.json", result)
    _track(model, result, gallery)
    _log_summary(name, result)


def _columns(pairs: Table, file: Path) -> dict[str, groups.Column]:
    """Return how test faces are grouped: by the user's columns, and by what degraded them."""
    own = groups.parse(file.read_text(encoding="utf-8-sig"))
    rows = pairs.read(columns=["face_id", "variant", "split", *_DRAWN]).to_pylist()
    drawn = {
        row_name(row["face_id"], row["variant"]): groups.severity_of(row)
        for row in rows
        if row["split"] == "test"
    }
    return {**own, **groups.severity(drawn)}


def _protocol(pairs: Table, size: int, network: SharedFile | None) -> dict[str, Any]:
    """Return what scores depend on beside the model. Only scores with the same are compared."""
    return {
        "faces": f"the test split of {pairs.path}",
        "size": size,
        "pairs": pairs.fingerprint,
        "degradation": pairs.params["recipe"],
        "degradation_seed": pairs.params["seed"],
        **({} if network is None else {"identity_network": network.sha256}),
    }


class Task(NamedTuple):
    """What every worker needs to score shards with a model."""

    pairs: Table
    model: SharedModel
    metrics: SharedMetrics
    batch_size: int
    failures: int  # how many of the worst faces are kept
    device: str


class Share(NamedTuple):
    """A shard with test rows, and which of these, counted from 0, the gallery shows."""

    shard: int
    num_tests: int
    shown: Collection[int]
    is_first: bool  # its result says how everything is measured: once is enough


class Scored(NamedTuple):
    """What was found about a model, on one shard or on all."""

    size: int  # pixels
    scores: list[FaceScores]
    shown: list[Compared]  # those that the gallery shows, with their pictures
    failed: list[Compared]  # those that got worse the most, with their pictures
    unavailable: dict[str, str]  # metrics that cannot be measured here, and why
    how: dict[str, How]  # the protocol of each metric that was measured; of the first share only


def _shares(pairs: Table, params: EvaluateParams) -> list[Share]:
    """Divide the test split by shards. Raises: ValueError if it is empty."""
    counts = [
        pairs.read_shard(shard, columns=["split"])["split"].to_pylist().count("test")
        for shard in range(len(pairs.shards))
    ]
    if not sum(counts):
        raise ValueError(
            f"{params.pairs} has no row in the split 'test': raise faces.test_percent, or name "
            "test pictures in a split.csv"
        )
    wanted = spread(sum(counts), params.gallery)
    firsts = accumulate(counts, initial=0)
    return [
        Share(
            shard,
            count,
            {place - first for place in wanted if first <= place < first + count},
            is_first=first == 0,
        )
        for shard, (first, count) in enumerate(zip(firsts, counts, strict=False))
        if count
    ]


def _score(task: Task, shares: Sequence[Share], compute: Compute) -> Scored:
    """Score all shares, and put what was found together in their order."""
    parts: list[Scored] = []
    worst: Worst | None = None
    counts = [share.num_tests for share in shares]
    for part in score_parts(compute, shares, counts, start, task):
        worst = worst or Worst(part.how, task.failures)
        worst.add(part.failed)
        parts.append(part._replace(failed=[]))
    return parts[0]._replace(
        scores=[row for part in parts for row in part.scores],
        shown=[one for part in parts for one in part.shown],
        failed=worst.faces() if worst else [],
    )


def start(task: Task) -> Callable[[Share], Scored]:
    """Load the model and the metrics in this process; return what scores a share."""
    device = torch.device(task.device)
    restorer = task.model.open(device)
    metrics, unavailable = task.metrics.open(device)
    compare = Comparison(restorer, metrics, device=device)
    how = {name: metric.how for name, metric in metrics.items()}

    def score(share: Share) -> Scored:
        compared = compare_shard(task, share.shard, compare, size=restorer.size)
        scores, shown = [], []
        worst = Worst(how, task.failures)
        for place, one in enumerate(compared):
            scores.append(one.row())
            worst.add([one])
            if place in share.shown:
                shown.append(one)
        measured = how if share.is_first else {}
        return Scored(restorer.size, scores, shown, worst.faces(), unavailable, measured)

    return score


def compare_shard(task: Task, shard: int, compare: Comparison, *, size: int) -> Iterator[Compared]:
    """Restore and score the test rows of one shard, in order."""
    rows = task.pairs.read_shard(shard, columns=_COLUMNS).to_pylist()
    tests = [row for row in rows if row["split"] == "test"]
    for first in range(0, len(tests), task.batch_size):
        pairs = [
            Pair(
                row["face_id"],
                row["variant"],
                images.decode_png(row["hq_png"]),
                images.decode_png(row["lq_png"]),
            )
            for row in tests[first : first + task.batch_size]
        ]
        if (found := pairs[0].lq.shape[0]) != size:
            raise ValueError(
                f"{task.pairs.path} has faces of {found} pixels, the model restores {size}: "
                "run 'dvc repro'"
            )
        yield from compare(pairs)


def _track(model: Path, result: dict[str, Any], gallery: Gallery) -> None:
    """Write means, bounds and pictures to the MLflow run that trained the model."""
    described = Description.read(model, RESTORER)
    if kind_of(described) is not None:  # another project trained it
        return
    training = described.content["lineage"].get("training")
    run_id = runs.run_of(training) if training else None
    if run_id is None:
        log.warning("no MLflow run of %s is known here: its scores are not tracked", model)
        return
    found = comparison.intervals_of(result)
    with tempfile.TemporaryDirectory() as folder:
        drawn: list[Path] = []
        if gallery.faces:
            drawn = [Path(folder) / "gallery.png"]
            drawn[0].write_bytes(images.encode_png(make_picture(gallery)))
        protocols = {name: metric["protocol"] for name, metric in result["metrics"].items()}
        shown = presented.description(found)
        runs.log_evaluation(run_id, presented.scores(found), drawn, shown, protocols)


def _log_summary(name: str, result: dict[str, Any]) -> None:
    for metric, roles in comparison.intervals_of(result).items():
        gain = roles[comparison.GAIN]
        log.info(
            "%s: %s %.3f -> %.3f over %d faces, gain %+.3f",
            *(name, metric, roles["degraded"]["mean"], roles["restored"]["mean"]),
            *(gain["n"], gain["mean"]),
        )


if __name__ == "__main__":
    stage.start("pipelines.evaluate")
