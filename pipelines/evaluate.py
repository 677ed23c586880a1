"""Stage `evaluate`: restore the test split with one trained model and score it (METHOD 7).

reads   pairs               face_id, variant, split, hq_png, lq_png: bytes (RGB)
        models/B-C          a trained folder
writes  metrics/models/B-C.json    model, protocol, metrics with intervals, scores of every face
        galleries/B-C/      PNGs of some faces and gallery.json
It logs both into the training's MLflow run.

A test split has at most a few thousand faces, so one process restores it: this one, or, on a
cluster, one on a node that has what `compute.evaluate` asks for. If that becomes too slow, workers
can share it by shards: see `score_shard`.
"""

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import Field, NonNegativeInt, PositiveInt, StringConstraints

from components import cluster, files, images
from components.encoders.identity import find_network
from components.faces.split import spread
from components.metrics.catalogue import CATALOGUE, How, open_metrics
from components.params import Compute, Params, one_of
from components.progress import Progress
from components.reporting import comparison
from components.reporting.comparison import Compared, Comparison, FaceScores, Pair
from components.reporting.gallery import Gallery, make_picture
from components.restorers.catalogue import kind_of
from components.restorers.folder import load_restorer
from components.tables import Table
from components.tracking import presented, runs
from components.weights.manifest import RESTORER, RESULTS, Description
from components.weights.shared import SharedFile, SharedFolder, share, share_file
from components.weights.store import find_need, open_model
from pipelines import stage

log = logging.getLogger(__name__)

SECTION = "evaluate"
ALWAYS = "identity_angle"  # always measured: if it is unavailable, the result says why
_COLUMNS = ["face_id", "variant", "split", "hq_png", "lq_png"]

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
    batch_size: PositiveInt


def run(params: EvaluateParams, compute: Compute, name: ModelName) -> None:
    """Score the restorer folder `models/NAME` on the test split of the pairs.

    Raises: ValueError if no pair is in the test split, or the pairs have another size than the
    model.
    """
    pairs, network = Table.open(params.pairs).shared(), None
    if params.identity_network is not None:
        network = share_file(find_network(params.identity_network))
    scored = cluster.call(
        compute,
        score,
        pairs,
        share(params.models / name),
        _results(params.models / name),
        network,
        params,
        "cuda" if compute.gpus else "cpu",
    )
    for metric, reason in scored.unavailable.items():
        log.warning("%s is not measured: %s", metric, reason)
    result = comparison.result(
        comparison.model_facts(name, open_model(params.models / name).content),
        _protocol(pairs, scored.size, network),
        scored.scores,
        scored.unavailable,
        samples=params.bootstrap_samples,
        seed=params.seed,
        how=scored.how,
    )
    gallery = Gallery.of(name, scored.shown)
    gallery.write(params.galleries / name)
    files.write_json(params.scores / f"{name}.json", result)
    _track(params.models / name, result, gallery)
    _log_summary(name, result)


def _results(model: Path) -> SharedFolder | None:
    need = open_model(model).needs.get(RESULTS)
    return None if need is None else share(find_need(model, need))


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


class Scored(NamedTuple):
    """What `score` found about a model."""

    size: int  # pixels
    scores: list[FaceScores]
    shown: list[Compared]  # those that the gallery shows, with their pictures
    unavailable: dict[str, str]  # metrics that cannot be measured here, and why
    how: dict[str, How]  # the protocol of each metric that was measured


def score(
    pairs: Table,
    model: SharedFolder,
    results: SharedFolder | None,
    identity_network: SharedFile | None,
    params: EvaluateParams,
    device: str,
) -> Scored:
    """Restore the test split with a model and measure it, in this process.

    `results` are the first restorations that it names, if another program made them.
    """
    hints = [] if results is None else [results.local()]
    restorer = load_restorer(model.local(), hints, device=torch.device(device))
    metrics, unavailable = open_metrics(
        dict.fromkeys([*params.metrics, ALWAYS]),
        identity_network=None if identity_network is None else identity_network.local(),
        device=torch.device(device),
    )
    compare = Comparison(restorer, metrics, device=torch.device(device))
    scores, shown = score_test_split(pairs, compare, params, size=restorer.size)
    how = {name: metric.how for name, metric in metrics.items()}
    return Scored(restorer.size, scores, shown, unavailable, how)


def score_test_split(
    pairs: Table, compare: Comparison, params: EvaluateParams, *, size: int
) -> tuple[list[FaceScores], list[Compared]]:
    """Return the scores of every test row, and the pictures of those that the gallery shows."""
    total = pairs.read(columns=["split"])["split"].to_pylist().count("test")
    if not total:
        raise ValueError(
            f"{params.pairs} has no row in the split 'test': raise faces.test_percent, or name "
            "test pictures in a split.csv"
        )
    wanted = spread(total, params.gallery)
    scores: list[FaceScores] = []
    shown: list[Compared] = []
    with Progress("evaluate", "faces", total) as progress:
        for shard in range(len(pairs.shards)):
            for one in score_shard(pairs, shard, compare, params.batch_size, size=size):
                if len(scores) in wanted:
                    shown.append(one)
                scores.append(one.row())
                progress.advance()
    return scores, shown


def score_shard(
    pairs: Table, shard: int, compare: Comparison, batch_size: int, *, size: int
) -> Iterator[Compared]:
    """Restore and score the test rows of one shard, in order."""
    rows = pairs.read_shard(shard, columns=_COLUMNS).to_pylist()
    tests = [row for row in rows if row["split"] == "test"]
    for start in range(0, len(tests), batch_size):
        batch = [
            Pair(
                row["face_id"],
                row["variant"],
                images.decode_png(row["hq_png"]),
                images.decode_png(row["lq_png"]),
            )
            for row in tests[start : start + batch_size]
        ]
        if (found := batch[0].lq.shape[0]) != size:
            raise ValueError(
                f"{pairs.path} has faces of {found} pixels, the model restores {size}: "
                "run 'dvc repro'"
            )
        yield from compare(batch)


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
