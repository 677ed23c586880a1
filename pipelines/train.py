"""Stage `train@BACKBONE-CONDITION`: train HDRFace, a backbone under fused face tokens (METHOD 2-4).

reads   pairs         how the faces were degraded, for the trained folder's lineage
        features      hq_png, lq_tokens, sr_tokens, lq_latent, hq_latent (train split)
        weights       data/weights/BACKBONE
        encoder       data/weights/dinov3: by name, for the trained folder; the tokens are cached
        intermediate  models/OTHER-text: likewise
writes  models/BACKBONE-CONDITION/   see `components.restorers.folder`, and history.json
"""

import argparse
import os
from pathlib import Path
from typing import Any, cast

from pydantic import Field, PositiveInt

from components import images, logs
from components.backbones.backbone import LoraParams, Trainable
from components.backbones.catalogue import BackboneName
from components.fusion.condition import ConditionName
from components.params import Compute, ElasticBatch, Params, Workers
from components.ray_training import training_run
from components.ray_training.distributed import Seat
from components.restorers.spec import Need, RestorerSpec
from components.tables import Table
from components.training import loop
from components.training.batches import FEATURE_COLUMNS, FeatureBatches
from components.training.optimization import OptimizationParams
from components.training.restorer_training import RestorerTraining
from components.training.sampler import RowStream
from components.training.step import LossParams
from components.weights.shared import share, share_file
from components.weights.store import open_model, open_weights


class TrainParams(Params):
    """One backbone's training on cached features, whatever the condition."""

    pairs: Path
    features: Path
    weights: Path
    encoder: Path
    encoder_size: PositiveInt  # pixels; as the features were made with
    intermediate: Path  # the restorer whose restorations the features hold
    models: Path  # the folder of trained folders
    trainable: Trainable
    lora: LoraParams | None = None
    losses: LossParams
    # Qwen-Image: how often a step sees the degraded latent without noise (p of eq. 19: 0.5).
    clean_condition: float = Field(ge=0, le=1)
    optimization: OptimizationParams
    workers: Workers  # a parameter, not `compute`: it changes the result
    elastic_batch: ElasticBatch = "global"
    shuffle_shards: PositiveInt = 8  # shards whose rows are mixed; they are in memory
    seed: int  # of the restorer's noise


def run(
    backbone: BackboneName, condition: ConditionName, params: TrainParams, compute: Compute
) -> None:
    """Train and write `models/BACKBONE-CONDITION`. Raises: what `training_run.run` says."""
    training, restorer = plan(backbone, condition, params)
    training_run.run(
        training,
        _out(backbone, condition, params),
        worker=work,
        config=worker_config(params, restorer),
        compute=compute,
        tags=lambda: {
            "backbone": backbone,
            "condition": condition,
            **training_run.lineage_tags(training.stage),
        },
    )


def plan(
    backbone: BackboneName, condition: ConditionName, params: TrainParams
) -> tuple[training_run.Training, RestorerTraining]:
    """Say what the training is made from and what it builds; nothing is written.

    Raises: FileNotFoundError or ValueError naming an input that is missing or damaged.
    """
    pairs, features = Table.open(params.pairs), Table.open(params.features)
    if features.inputs["pairs"] != pairs.fingerprint:
        raise ValueError(
            f"{params.features} was made from pairs {features.inputs['pairs'][:12]}, "
            f"{params.pairs} is {pairs.fingerprint[:12]}: run 'dvc repro {features.stage}'"
        )
    weights, encoder = open_weights(params.weights), open_weights(params.encoder)
    intermediate = open_model(params.intermediate)
    folders = {
        "backbone": (weights.name, weights.fingerprint, params.weights),
        "encoder": (encoder.name, encoder.fingerprint, params.encoder),
        "intermediate": (params.intermediate.name, intermediate.fingerprint, params.intermediate),
    }
    training = training_run.Training(
        stage=f"train@{backbone}-{condition}",
        module="pipelines.train",
        params=params.model_dump(
            mode="json",
            exclude={
                "pairs",
                "features",
                "weights",
                "encoder",
                "intermediate",
                "models",
                "workers",
                "elastic_batch",
            },
        ),
        inputs={
            "features": features.fingerprint,
            **{role: fingerprint for role, (_, fingerprint, _) in folders.items()},
        },
        workers=params.workers,
        elastic_batch=params.elastic_batch,
        num_steps=params.optimization.steps,
    )
    out = _out(backbone, condition, params)
    restorer = RestorerTraining(
        spec=RestorerSpec(
            backbone=backbone,
            condition=condition,
            trainable=params.trainable,
            lora=params.lora,
            size=_size(features),
            encoder_size=params.encoder_size,
            seed=params.seed,
        ),
        losses=params.losses,
        identity_network=params.losses.identity and share_file(params.losses.identity.network),
        clean_condition=params.clean_condition,
        optimization=params.optimization,
        weights=share(params.weights),
        token_width=_token_width(features),
        needs={
            role: Need(name=name, fingerprint=fingerprint, hint=os.path.relpath(folder, out))
            for role, (name, fingerprint, folder) in folders.items()
        },
        licences=(weights.licence, encoder.licence, *intermediate.content["licences"]),
        lineage=training.lineage(pairs),
    )
    return training, restorer


def worker_config(params: TrainParams, restorer: RestorerTraining) -> dict[str, Any]:
    """Give what `work` needs on every worker."""
    return {
        "restorer": restorer,
        "features": Table.open(params.features).shared(),
        "shuffle_shards": params.shuffle_shards,
    }


def work(config: dict[str, Any], seat: Seat) -> None:
    """Train on one worker."""
    restorer: RestorerTraining = config["restorer"]
    features: Table = config["features"]
    step = restorer.start(seat.device)

    def batches(number: int) -> FeatureBatches:
        stream = RowStream(
            [shard.rows for shard in features.shards],
            lambda index: features.read_shard(index, FEATURE_COLUMNS),
            seed=restorer.optimization.seed,
            number=number,
            num_streams=seat.num_streams,
            shuffle_shards=config["shuffle_shards"],
        )
        return FeatureBatches(stream, seat.device)

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


def _out(backbone: BackboneName, condition: ConditionName, params: TrainParams) -> Path:
    return params.models / f"{backbone}-{condition}"


def _first_shard(features: Table) -> int:
    for index, shard in enumerate(features.shards):
        if shard.rows:
            return index
    raise ValueError(f"{features.path} has no rows: run 'dvc repro {features.stage}'")


def _size(features: Table) -> int:
    """Give the size of the faces in pixels."""
    first = features.read_shard(_first_shard(features), ["hq_png"])["hq_png"][0].as_py()
    return int(images.decode_png(first).shape[0])


def _token_width(features: Table) -> int:
    column = features.read_shard(_first_shard(features), ["sr_tokens"])["sr_tokens"]
    return int(column.type.shape[1])


def main() -> None:
    logs.configure()
    parser = argparse.ArgumentParser(prog="python -m pipelines.train")
    parser.add_argument("backbone", help="sd21 or qwen: a section below 'train' in params.yaml")
    parser.add_argument("condition", help="sdfm, dino or lr")
    arguments = parser.parse_args()
    run(
        cast("BackboneName", arguments.backbone),
        cast("ConditionName", arguments.condition),
        TrainParams.load(f"train.{arguments.backbone}"),
        Compute.load_compute("train"),
    )


if __name__ == "__main__":
    # By its name: Ray's workers look `work` up in its module, and have another `__main__`.
    from pipelines import train

    train.main()
