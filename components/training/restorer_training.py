"""A restorer's training: its parameters, and what travels to the workers.

The stages `plain` and `train` differ in their rows and their condition. All else is here.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import Field, PositiveInt, model_validator

from components.backbones.backbone import Posterior, Trainable
from components.backbones.catalogue import BackboneName, check_posterior
from components.discriminators.catalogue import DISCRIMINATORS
from components.fusion.condition import ConditionName
from components.params import ElasticBatch, Params, Recomputable, Workers
from components.restorers.folder import begin_restorer, save_restorer
from components.restorers.hdrface import HDRFace
from components.restorers.spec import Need, NoiseOf, RestorerSpec
from components.training.adversary import Adversary, DiscriminatorParams
from components.training.loop import Opponent
from components.training.optimization import OptimizationParams
from components.training.precision import Precision, recomputing, store_frozen
from components.training.step import LossParams, TrainingStep
from components.training.validation import ValidationParams
from components.weights.lora import LoraParams
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
    discriminator: DiscriminatorParams | None = None  # of the adversarial loss
    precision: Precision = "float32"
    # Qwen-Image: how often a step sees the degraded latent without noise (p of eq. 19: 0.5).
    clean_condition: float = Field(ge=0, le=1)
    optimization: OptimizationParams
    workers: Workers  # a parameter, not `compute`: it changes the result
    elastic_batch: ElasticBatch = "global"
    validation: ValidationParams | None = None
    shuffle_shards: PositiveInt = 8  # shards whose rows are mixed; they are in memory
    seed: int  # of what the restorer draws
    posterior: Posterior = "mean"  # which latents it is trained on, and takes at inference
    noise_of: NoiseOf = "face"  # at inference

    @model_validator(mode="after")
    def _an_adversarial_loss_needs_a_discriminator(self) -> Self:
        if self.losses.adversarial is not None and self.discriminator is None:
            raise ValueError(
                "losses.adversarial needs a discriminator: describe it under `discriminator`, or "
                "set losses.adversarial to null"
            )
        return self

    @model_validator(mode="after")
    def _a_checkpoint_covers_a_validation(self) -> Self:
        # So that the step which is validated is one whose model and picture are kept.
        checkpoint_every = self.optimization.checkpoint_every
        if self.validation is not None and self.validation.every % checkpoint_every:
            raise ValueError(
                f"validation.every = {self.validation.every} must be a multiple of "
                f"optimization.checkpoint_every = {checkpoint_every}"
            )
        return self

    def opponent(self) -> DiscriminatorParams | None:
        """Return the discriminator if the losses ask for one."""
        return self.discriminator if self.losses.adversarial is not None else None

    def opponent_inputs(self) -> dict[str, str]:
        """Return the fingerprint of the discriminator's weights by its name, if there is one."""
        discriminator = self.opponent()
        if discriminator is None:
            return {}
        return {"discriminator": open_weights(discriminator.weights).fingerprint}

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
        """Return what the restorer will be, for faces of `size` pixels.

        Raises: ValueError if the backbone takes posterior means only and samples are asked for.
        """
        check_posterior(backbone, self.posterior)
        return RestorerSpec(
            backbone=backbone,
            condition=condition,
            trainable=self.trainable,
            lora=self.lora,
            size=size,
            encoder_size=encoder_size,
            seed=self.seed,
            posterior=self.posterior,
            noise_of=self.noise_of,
        )

    def content(self) -> dict[str, Any]:
        """Return, as JSON values, what decides the result beside its inputs and its workers.

        So without the paths: an input counts by its fingerprint, wherever it lies.
        """
        places = {
            name for name, field in type(self).model_fields.items() if field.annotation is Path
        }
        content = self.model_dump(mode="json", exclude={*places, "workers", "elastic_batch"})
        if self.opponent() is None:
            del content["discriminator"]
        else:
            del content["discriminator"]["weights"]
        return content


class RestorerTraining(Params):
    """One training: with its rows, all that the trained folder follows from."""

    spec: RestorerSpec
    losses: LossParams
    identity_network: SharedFile | None  # of the identity loss, if there is one
    optimization: OptimizationParams
    clean_condition: float
    weights: SharedFolder  # of the backbone
    discriminator: DiscriminatorParams | None = None
    discriminator_weights: SharedFolder | None = None
    precision: Precision = "float32"
    validation: ValidationParams | None = None
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
        identity, discriminator = params.losses.identity, params.opponent()
        return cls(
            spec=spec,
            losses=params.losses,
            identity_network=None if identity is None else share_file(identity.network),
            clean_condition=params.clean_condition,
            precision=params.precision,
            optimization=params.optimization,
            validation=params.validation,
            weights=share(params.weights),
            discriminator=discriminator,
            discriminator_weights=None if discriminator is None else share(discriminator.weights),
            token_width=token_width,
            needs=needs,
            licences=licences,
            lineage=lineage,
        )

    def start(
        self, device: torch.device, recompute: Collection[Recomputable] = ()
    ) -> tuple[TrainingStep, Opponent | None]:
        """Build what is trained and its opponent: the same on every rank and in every attempt.

        `recompute` names what keeps no activations for the backward pass.
        """
        torch.manual_seed(self.optimization.seed)
        losses = self.losses
        if losses.identity is not None and self.identity_network is not None:
            network = {"network": self.identity_network.local()}
            identity = losses.identity.model_copy(update=network)
            losses = losses.model_copy(update={"identity": identity})
        restorer = begin_restorer(
            self.spec, open_weights(self.weights.local()), token_width=self.token_width
        )
        adversary = self._adversary(restorer, device)
        store_frozen(restorer, self.precision)
        step = TrainingStep(
            restorer,
            losses,
            clean_condition=self.clean_condition,
            adversary=adversary,
            precision=self.precision,
        ).to(device)
        _keep_no_activations(step, adversary, recompute)
        if adversary is None or self.discriminator is None:
            return step, None
        return step, Opponent(adversary, self.discriminator.optimization)

    def _adversary(self, restorer: HDRFace, device: torch.device) -> Adversary | None:
        params, weights = self.discriminator, self.discriminator_weights
        if self.losses.adversarial is None or params is None or weights is None:
            return None
        discriminator = DISCRIMINATORS[restorer.backbone.discriminator](
            open_weights(weights.local()).root,
            restorer.backbone.condition_width,
            lora=params.lora,
            noisy_input=params.noisy_input,
        )
        store_frozen(discriminator, self.precision)
        adversarial = self.losses.adversarial
        return Adversary(discriminator, adversarial, precision=self.precision).to(device)

    def export(self, step: TrainingStep, folder: Path) -> None:
        """Write the trained folder."""
        save_restorer(
            step.restorer,
            folder,
            needs=self.needs,
            licences=self.licences,
            lineage=self.lineage,
        )


def _keep_no_activations(
    step: TrainingStep, adversary: Adversary | None, parts: Collection[Recomputable]
) -> None:
    backbone = step.restorer.backbone
    if "generator" in parts:
        backbone.generator.enable_gradient_checkpointing()
    if "decoder" in parts:
        recomputing(backbone.decoder_blocks())
    if "losses" in parts:
        recomputing(step.image_losses.values())
    if "discriminator" in parts and adversary is not None:
        adversary.discriminator.network.enable_gradient_checkpointing()
