"""A restorer's training: its parameters, and what travels to the workers.

The stages `plain` and `train` differ in their rows and their condition. All else is here.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import Field, PositiveInt

from components.backbones.backbone import LoraParams, Trainable
from components.backbones.catalogue import BackboneName
from components.fusion.condition import ConditionName
from components.params import ElasticBatch, Params, Workers
from components.restorers.folder import begin_restorer, save_restorer
from components.restorers.spec import Need, RestorerSpec
from components.training.optimization import OptimizationParams
from components.training.step import LossParams, TrainingStep
from components.weights.shared import SharedFile, SharedFolder, share, share_file
from components.weights.store import open_weights


class TrainingParams(Params):
    """What every training of a restorer needs, whatever its rows and its condition."""

    pairs: Path
    weights: Path  # of the backbone
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

    def out(self, backbone: BackboneName, condition: ConditionName) -> Path:
        """Return the trained folder that is written."""
        return self.models / f"{backbone}-{condition}"

    def spec(
        self,
        backbone: BackboneName,
        condition: ConditionName,
        *,
        size: int,
        encoder_size: int | None = None,
    ) -> RestorerSpec:
        """Return what the restorer will be, for faces of `size` pixels."""
        return RestorerSpec(
            backbone=backbone,
            condition=condition,
            trainable=self.trainable,
            lora=self.lora,
            size=size,
            encoder_size=encoder_size,
            seed=self.seed,
        )

    def content(self) -> dict[str, Any]:
        """Return, as JSON values, what decides the result beside its inputs and its workers.

        So without the paths: an input counts by its fingerprint, wherever it lies.
        """
        places = {
            name for name, field in type(self).model_fields.items() if field.annotation is Path
        }
        return self.model_dump(mode="json", exclude={*places, "workers", "elastic_batch"})


class RestorerTraining(Params):
    """One training: with its rows, all that the trained folder follows from."""

    spec: RestorerSpec
    losses: LossParams
    identity_network: SharedFile | None  # of the identity loss, if there is one
    optimization: OptimizationParams
    clean_condition: float
    weights: SharedFolder  # of the backbone
    token_width: int | None = None
    needs: Mapping[str, Need]  # of the trained folder
    licences: tuple[str, ...]
    lineage: Mapping[str, Any] = Field(default_factory=dict)

    @classmethod
    def of(
        cls,
        params: TrainingParams,
        spec: RestorerSpec,
        *,
        token_width: int | None = None,
        needs: Mapping[str, Need],
        licences: tuple[str, ...],
        lineage: Mapping[str, Any],
    ) -> Self:
        """Make the training that parameters ask for; networks that workers read become shared."""
        identity = params.losses.identity
        return cls(
            spec=spec,
            losses=params.losses,
            identity_network=None if identity is None else share_file(identity.network),
            clean_condition=params.clean_condition,
            optimization=params.optimization,
            weights=share(params.weights),
            token_width=token_width,
            needs=needs,
            licences=licences,
            lineage=lineage,
        )

    def start(self, device: torch.device) -> TrainingStep:
        """Build what is trained: the same on every rank and in every attempt."""
        torch.manual_seed(self.optimization.seed)
        losses = self.losses
        if losses.identity is not None and self.identity_network is not None:
            network = {"network": self.identity_network.local()}
            identity = losses.identity.model_copy(update=network)
            losses = losses.model_copy(update={"identity": identity})
        restorer = begin_restorer(
            self.spec, open_weights(self.weights.local()), token_width=self.token_width
        )
        return TrainingStep(restorer, losses, clean_condition=self.clean_condition).to(device)

    def export(self, step: TrainingStep, folder: Path) -> None:
        """Write the trained folder."""
        save_restorer(
            step.restorer,
            folder,
            needs=self.needs,
            licences=self.licences,
            lineage=self.lineage,
        )
