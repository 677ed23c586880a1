"""Stage `plain@BACKBONE`: train the plain one-step restorer of a backbone (METHOD 5).

It sees the degraded face and one fixed text condition. It is the intermediate restorer of the other
backbone, and the row `text` of the comparison (METHOD 2, ablation).

reads   pairs    split, hq_png, lq_png (rows of the train split; some test faces)
        weights  data/weights/BACKBONE
writes  models/BACKBONE-text/   see `components.restorers.folder`, and history.json
"""

import os
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from components import images
from components.backbones.catalogue import BackboneName
from components.params import Compute
from components.ray_training import training_run
from components.restorers.spec import Need
from components.tables import Table
from components.training.batches import PAIR_COLUMNS, PairBatches
from components.training.restorer_training import RestorerTraining
from components.training.sampler import RowStream
from components.training.seat import Seat
from components.training.training_params import TrainingParams
from components.training.validation_faces import ValidationFace, on_every_rank, read_faces
from components.weights.store import open_weights
from pipelines import stage

SECTION = "plain.{backbone}"


class PlainParams(TrainingParams):
    """One backbone's plain restorer."""

    mirror: bool  # flips half of the rows


def run(params: PlainParams, compute: Compute, backbone: BackboneName) -> None:
    """Train and write `models/BACKBONE-text`. Raises: what `training_run.run` says."""
    training, restorer = plan(params, backbone)
    training_run.run(
        training,
        params.out(backbone, "text"),
        worker=work,
        config=worker_config(params, restorer, compute),
        compute=compute,
    )


def plan(
    params: PlainParams, backbone: BackboneName
) -> tuple[training_run.Training, RestorerTraining]:
    """Return what the training is made from and what it builds; write nothing.

    Raises: FileNotFoundError or ValueError naming an input that is missing or damaged.
    """
    pairs = Table.open(params.pairs)
    weights = open_weights(params.weights)
    hint = os.path.relpath(params.weights, params.out(backbone, "text"))
    training = training_run.Training(
        stage=f"plain@{backbone}",
        module="pipelines.plain",
        params=params.content(),
        inputs={
            "pairs": pairs.fingerprint,
            "backbone": weights.fingerprint,
            **params.opponent_inputs(),
        },
        workers=params.workers,
        elastic_batch=params.elastic_batch,
        num_steps=params.optimization.steps,
        labels={"backbone": backbone, "condition": "text"},
    )
    restorer = RestorerTraining.of(
        params,
        params.spec(backbone, "text", size=images.side(pairs.first("hq_png").as_py())),
        needs={"backbone": Need(name=weights.name, fingerprint=weights.fingerprint, hint=hint)},
        licences=(weights.licence,),
        lineage=training.lineage(pairs),
    )
    return training, restorer


def worker_config(
    params: PlainParams, restorer: RestorerTraining, compute: Compute
) -> dict[str, Any]:
    """Return what `work` needs on every worker.

    Raises: ValueError if the training cannot be run as `compute` asks.
    """
    params.check_compute(compute)
    return {
        "restorer": restorer,
        "pairs": Table.open(params.pairs).shared(),
        "mirror": params.mirror,
        "shuffle_shards": params.shuffle_shards,
        "recompute": compute.recompute,
        "offload": compute.offload,
    }


def work(config: dict[str, Any], seat: Seat) -> None:
    """Train on one worker."""
    restorer: RestorerTraining = config["restorer"]
    pairs: Table = config["pairs"]
    faces = _validation_faces(restorer, pairs, seat)
    step, opponent = restorer.start(seat.device, config["recompute"], offload=config["offload"])
    num_rows = [
        pc.sum(_is_train(pairs.read_shard(index, ["split"]))).as_py() or 0
        for index in range(len(pairs.shards))
    ]

    def batches(number: int) -> PairBatches:
        stream = RowStream(
            num_rows,
            lambda index: _train_rows(pairs.read_shard(index, [*PAIR_COLUMNS, "split"])),
            seed=restorer.optimization.seed,
            number=number,
            num_streams=seat.num_streams,
            shuffle_shards=config["shuffle_shards"],
        )
        return PairBatches(
            stream,
            step.encode,
            seat.device,
            seed=restorer.optimization.seed,
            mirror=config["mirror"],
            posterior=restorer.spec.posterior,
        )

    restorer.train(step, opponent, batches, faces, seat)


def _validation_faces(restorer: RestorerTraining, pairs: Table, seat: Seat) -> list[ValidationFace]:
    params = restorer.validation
    if params is None:
        return []
    return on_every_rank(
        seat, lambda: read_faces(pairs.read_shard, len(pairs.shards), params.faces)
    )


def _train_rows(rows: pa.Table) -> pa.Table:
    return rows.filter(_is_train(rows)).select(list(PAIR_COLUMNS))


def _is_train(rows: pa.Table) -> pa.ChunkedArray:
    return pc.equal(rows["split"], "train")


if __name__ == "__main__":
    stage.start("pipelines.plain")
