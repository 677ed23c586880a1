"""Stage `train@BACKBONE-CONDITION`: train HDRFace, a backbone under fused face tokens (METHOD 2-4).

reads   pairs         hq_png (train split); some test faces, for the validation; how the faces were
                      degraded, for the trained folder's lineage
        features      lq_tokens, sr_tokens, lq_latent, hq_latent of the same faces; tokens in 8 bits
                      also have lq_scales and sr_scales
        weights       data/weights/BACKBONE
        discriminator data/weights/BACKBONE-discriminator, if the losses have an adversarial term
        encoder       data/weights/dinov3: by name, for the trained folder; the tokens are cached,
                      but for the test faces of the validation
        intermediate  models/OTHER-text: likewise
writes  models/BACKBONE-CONDITION/   see `components.restorers.folder`, and history.json
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from pydantic import PositiveInt

from components import images
from components.backbones.catalogue import BackboneName
from components.encoders.dinov3 import DINOv3
from components.fusion.condition import TokenConditionName
from components.params import Compute
from components.ray_training import training_run
from components.restorers.catalogue import FOLDER, kind_of
from components.restorers.folder import load_restorer
from components.restorers.spec import Need
from components.tables import Table
from components.training.batches import FeatureBatches, read_features, token_width
from components.training.restorer_training import RestorerTraining
from components.training.sampler import RowStream
from components.training.seat import Seat
from components.training.training_params import TrainingParams
from components.training.validation_faces import (
    ValidationFace,
    on_every_rank,
    read_faces,
    seen_by,
)
from components.weights.manifest import RESULTS, Manifest
from components.weights.shared import SharedFolder, share
from components.weights.store import open_model, open_weights
from pipelines import stage

SECTION = "train.{backbone}"


class TrainParams(TrainingParams):
    """One backbone's training on cached features, whatever the condition."""

    features: Path
    encoder: Path
    encoder_size: PositiveInt  # pixels; as the features were made with
    intermediate: Path  # the restorer whose restorations the features hold


def run(
    params: TrainParams, compute: Compute, backbone: BackboneName, condition: TokenConditionName
) -> None:
    """Train and write `models/BACKBONE-CONDITION`. Raises: what `training_run.run` says."""
    training, restorer = plan(params, backbone, condition)
    training_run.run(
        training,
        params.out(backbone, condition),
        worker=work,
        config=worker_config(params, restorer, compute),
        compute=compute,
    )


def plan(
    params: TrainParams, backbone: BackboneName, condition: TokenConditionName
) -> tuple[training_run.Training, RestorerTraining]:
    """Return what the training is made from and what it builds; write nothing.

    Raises: FileNotFoundError or ValueError naming an input that is missing, damaged or of another
        run, and what to do.
    """
    pairs, features = _open_tables(params)
    networks = _open_networks(params, params.out(backbone, condition))
    training = training_run.Training(
        stage=f"train@{backbone}-{condition}",
        module="pipelines.train",
        params=params.content(),
        inputs={
            "features": features.fingerprint,
            **{role: need.fingerprint for role, need in networks.needs.items()},
            **params.opponent_inputs(),
        },
        workers=params.workers,
        elastic_batch=params.elastic_batch,
        num_steps=params.optimization.steps,
        labels={
            "backbone": backbone,
            "condition": condition,
            "intermediate": params.intermediate.name,
            "dinov3": Manifest.read(params.encoder).source,
            "tokens": features.params.get("tokens", "float16"),
        },
    )
    restorer = RestorerTraining.of(
        params,
        params.spec(
            backbone,
            condition,
            size=images.side(pairs.first("hq_png").as_py()),
            encoder_size=params.encoder_size,
        ),
        token_width=token_width(features),
        needs=networks.needs,
        licences=networks.licences,
        lineage=training.lineage(pairs, features),
    )
    return training, restorer


class _Networks(NamedTuple):
    """What the restorer stands on: what it needs to restore, and under which licences."""

    needs: Mapping[str, Need]
    licences: tuple[str, ...]


def _open_tables(params: TrainParams) -> tuple[Table, Table]:
    """Open the features, and the pairs that they must have been made from."""
    pairs, features = Table.open(params.pairs), Table.open(params.features)
    if features.inputs["pairs"] != pairs.fingerprint:
        raise ValueError(
            f"{params.features} was made from pairs {features.inputs['pairs'][:12]}, "
            f"{params.pairs} is {pairs.fingerprint[:12]}: run 'dvc repro {features.stage}'"
        )
    if (made := features.params.get("posterior", "mean")) != params.posterior:
        raise ValueError(
            f"{params.features} was made with posterior = {made}, the training has "
            f"{params.posterior}: set both alike and run 'dvc repro {features.stage}'"
        )
    return pairs, features


def _open_networks(params: TrainParams, out: Path) -> _Networks:
    """Open the networks that the trained folder `out` names, with their way from there."""
    weights, encoder = open_weights(params.weights), open_weights(params.encoder)
    intermediate = open_model(params.intermediate)
    first = RESULTS if kind_of(intermediate) == FOLDER else "intermediate"
    folders = {
        "backbone": (weights.name, weights.fingerprint, params.weights),
        "encoder": (encoder.name, encoder.fingerprint, params.encoder),
        first: (params.intermediate.name, intermediate.fingerprint, params.intermediate),
    }
    needs = {
        role: Need(name=name, fingerprint=fingerprint, hint=os.path.relpath(folder, out))
        for role, (name, fingerprint, folder) in folders.items()
    }
    licences = (weights.licence, encoder.licence, *intermediate.content["licences"])
    return _Networks(needs, licences)


class _Unseen(NamedTuple):
    """The networks that see test faces, of which the features hold nothing."""

    intermediate: SharedFolder
    encoder: SharedFolder
    encoder_size: int

    @classmethod
    def of(cls, params: TrainParams) -> Self:
        return cls(
            share(params.intermediate),
            share(params.encoder),
            params.encoder_size,
        )

    def faces(self, pairs: Table, count: int, device: torch.device) -> list[ValidationFace]:
        faces = read_faces(pairs.read_shard, len(pairs.shards), count)
        intermediate = load_restorer(self.intermediate.local(), device=device)
        encoder = DINOv3(open_weights(self.encoder.local()).root, input_size=self.encoder_size)
        return list(seen_by(faces, intermediate, encoder.to(device), device))


def worker_config(
    params: TrainParams, restorer: RestorerTraining, compute: Compute
) -> dict[str, Any]:
    """Return what `work` needs on every worker.

    Raises: ValueError if the training cannot be run as `compute` asks.
    """
    params.check_compute(compute)
    return {
        "restorer": restorer,
        "features": Table.open(params.features).shared(),
        "pairs": Table.open(params.pairs).shared(),
        "shuffle_shards": params.shuffle_shards,
        "unseen": None if params.validation is None else _Unseen.of(params),
        "recompute": compute.recompute,
        "offload": compute.offload,
    }


def work(config: dict[str, Any], seat: Seat) -> None:
    """Train on one worker."""
    restorer: RestorerTraining = config["restorer"]
    features: Table = config["features"]
    pairs: Table = config["pairs"]
    faces = _validation_faces(restorer, pairs, config["unseen"], seat)
    step, opponent = restorer.start(seat.device, config["recompute"], offload=config["offload"])

    def batches(number: int) -> FeatureBatches:
        stream = RowStream(
            [shard.rows for shard in features.shards],
            lambda index: read_features(features, pairs, index),
            seed=restorer.optimization.seed,
            number=number,
            num_streams=seat.num_streams,
            shuffle_shards=config["shuffle_shards"],
        )
        return FeatureBatches(stream, seat.device)

    restorer.train(step, opponent, batches, faces, seat)


def _validation_faces(
    restorer: RestorerTraining, pairs: Table, inputs: "_Unseen | None", seat: Seat
) -> list[ValidationFace]:
    """Find the faces of a validation, before the networks that train take their memory."""
    params = restorer.validation
    if params is None or inputs is None:
        return []
    faces = on_every_rank(seat, lambda: inputs.faces(pairs, params.faces, seat.device))
    if seat.device.type == "cuda":  # what the networks took is no part of the training's peak
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(seat.device)
    return faces


if __name__ == "__main__":
    stage.start("pipelines.train")
