"""Stage `plain@BACKBONE`: train the plain one-step restorer of a backbone (METHOD 5).

It sees the degraded face and one fixed text condition. It is the intermediate restorer of the other
backbone, and the row `text` of the comparison (METHOD 2, ablation).

reads   pairs    split, hq_png, lq_png (rows of the train split)
        weights  data/weights/BACKBONE
writes  models/BACKBONE-text/   see `components.restorers.folder`, and history.json
"""

import argparse
import os
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, PositiveInt

from components import images, logs
from components.backbones.backbone import LoraParams, Trainable
from components.backbones.catalogue import BackboneName
from components.params import Compute, ElasticBatch, Params, Workers
from components.ray_training import training_run
from components.ray_training.distributed import Seat
from components.restorers.spec import Need, RestorerSpec
from components.tables import Table
from components.training import loop
from components.training.batches import PAIR_COLUMNS, PairBatches
from components.training.optimization import OptimizationParams
from components.training.restorer_training import RestorerTraining
from components.training.sampler import RowStream
from components.training.step import LossParams
from components.weights.shared import share, share_file
from components.weights.store import open_weights


class PlainParams(Params):
    """One backbone's plain restorer."""

    pairs: Path
    weights: Path
    models: Path  # the folder of trained folders
    trainable: Trainable
    lora: LoraParams | None = None
    losses: LossParams
    # Qwen-Image: how often a step sees the degraded latent without noise (p of eq. 19: 0.5).
    clean_condition: float = Field(ge=0, le=1)
    optimization: OptimizationParams
    workers: Workers  # a parameter, not `compute`: it changes the result
    elastic_batch: ElasticBatch = "global"
    mirror: bool  # flips half of the rows
    shuffle_shards: PositiveInt = 8  # shards whose rows are mixed; they are in memory
    seed: int  # of the restorer's noise


def run(backbone: BackboneName, params: PlainParams, compute: Compute) -> None:
    """Train and write `models/BACKBONE-text`. Raises: what `training_run.run` says."""
    training, restorer = plan(backbone, params)
    training_run.run(
        training,
        _out(backbone, params),
        worker=work,
        config={
            "restorer": restorer,
            "pairs": Table.open(params.pairs).shared(),
            "mirror": params.mirror,
            "shuffle_shards": params.shuffle_shards,
        },
        compute=compute,
        tags=lambda: {
            "backbone": backbone,
            "condition": "text",
            **training_run.lineage_tags(training.stage),
        },
    )


def plan(
    backbone: BackboneName, params: PlainParams
) -> tuple[training_run.Training, RestorerTraining]:
    """Say what the training is made from and what it builds; nothing is written.

    Raises: FileNotFoundError or ValueError naming an input that is missing or damaged.
    """
    pairs = Table.open(params.pairs)
    weights = open_weights(params.weights)
    hint = os.path.relpath(params.weights, _out(backbone, params))
    training = training_run.Training(
        stage=f"plain@{backbone}",
        module="pipelines.plain",
        params=params.model_dump(
            mode="json", exclude={"pairs", "weights", "models", "workers", "elastic_batch"}
        ),
        inputs={"pairs": pairs.fingerprint, "backbone": weights.fingerprint},
        workers=params.workers,
        elastic_batch=params.elastic_batch,
        num_steps=params.optimization.steps,
    )
    restorer = RestorerTraining(
        spec=RestorerSpec(
            backbone=backbone,
            condition="text",
            trainable=params.trainable,
            lora=params.lora,
            size=_size(pairs),
            seed=params.seed,
        ),
        losses=params.losses,
        identity_network=params.losses.identity and share_file(params.losses.identity.network),
        clean_condition=params.clean_condition,
        optimization=params.optimization,
        weights=share(params.weights),
        needs={"backbone": Need(name=weights.name, fingerprint=weights.fingerprint, hint=hint)},
        licences=(weights.licence,),
        lineage=training.lineage(pairs),
    )
    return training, restorer


def work(config: dict[str, Any], seat: Seat) -> None:
    """Train on one worker."""
    restorer: RestorerTraining = config["restorer"]
    pairs: Table = config["pairs"]
    step = restorer.start(seat.device)
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
        )

    loop.train(
        step,
        batches,
        restorer.optimization,
        report=seat.report,
        rank=seat.rank,
        world_size=seat.world_size,
        num_streams=seat.num_streams,
        device=seat.device,
        resume_from=seat.resume_from,
        export=lambda folder: restorer.export(step, folder / training_run.TRAINED),
    )


def _out(backbone: BackboneName, params: PlainParams) -> Path:
    return params.models / f"{backbone}-text"


def _train_rows(rows: pa.Table) -> pa.Table:
    return rows.filter(_is_train(rows)).select(list(PAIR_COLUMNS))


def _is_train(rows: pa.Table) -> pa.ChunkedArray:
    return pc.equal(rows["split"], "train")


def _size(pairs: Table) -> int:
    """Give the size of the faces in pixels."""
    for index, shard in enumerate(pairs.shards):
        if shard.rows:
            first = pairs.read_shard(index, ["hq_png"])["hq_png"][0].as_py()
            return int(images.decode_png(first).shape[0])
    raise ValueError(f"{pairs.path} has no rows: run 'dvc repro degrade'")


def main() -> None:
    logs.configure()
    parser = argparse.ArgumentParser(prog="python -m pipelines.plain")
    parser.add_argument("backbone", help="sd21 or qwen: a section below 'plain' in params.yaml")
    backbone: str = parser.parse_args().backbone
    params = PlainParams.load(f"plain.{backbone}")
    run(cast("BackboneName", backbone), params, Compute.load_compute("plain"))


if __name__ == "__main__":
    # By its name: Ray's workers look `work` up in its module, and have another `__main__`.
    from pipelines import plain

    plain.main()
