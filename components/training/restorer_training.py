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
from components.discriminators.discriminator import Discriminator
from components.fusion.condition import ConditionName
from components.params import Compute, ElasticBatch, Params, Recomputable, Workers
from components.restorers.folder import begin_restorer, save_restorer
from components.restorers.hdrface import HDRFace
from components.restorers.spec import Need, NoiseOf, RestorerSpec
from components.training.adversary import Adversary, DiscriminatorParams
from components.training.loop import Opponent
from components.training.optimization import (
    OptimizationParams,
    OptimizerParams,
    check_can_shard,
    check_step_in_backward,
)
from components.training.parallel import (
    Parallel,
    Sharding,
    check_trained,
    is_sharded,
    move_rest,
    unsharded,
    whole_tensors,
)
from components.training.precision import Precision, recomputing, settle
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
    # Of `full`: train the vectors that the fixed timestep makes, not the matrices that make them.
    time_vectors: bool = False
    lora: LoraParams | None = None
    losses: LossParams
    discriminator: DiscriminatorParams | None = None  # of the adversarial loss
    precision: Precision = "float32"
    # Qwen-Image: how often a step sees the degraded latent without noise (p of eq. 19: 0.5).
    clean_condition: float = Field(ge=0, le=1)
    optimization: OptimizationParams
    parallel: Parallel = "ddp"
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

    def check_compute(self, compute: Compute) -> None:
        """Raise ValueError if the training cannot be run as `compute` asks."""
        if compute.offload and self.parallel != "fsdp":
            raise ValueError(
                f"offload = true needs a sharded training, and parallel = {self.parallel}: set "
                "parallel: fsdp, which also runs on one GPU, or offload: false"
            )

    @model_validator(mode="after")
    def _vectors_of_time_train_in_full(self) -> Self:
        if self.time_vectors and self.trainable == "lora":
            raise ValueError(
                "time_vectors = true with trainable = lora: low-rank layers change matrices, which "
                "vectors replace: set time_vectors to false, or trainable to full"
            )
        return self

    @model_validator(mode="after")
    def _bf16_weights_are_computed_in_bf16(self) -> Self:
        for name, side in self._sides().items():
            if side.weights == "bf16" and self.precision != "bf16":
                raise ValueError(
                    f"{name}.weights = bf16 needs precision = bf16, in which the networks compute; "
                    f"it is {self.precision}"
                )
        return self

    @model_validator(mode="after")
    def _can_step_in_backward(self) -> Self:
        if self.optimization.step_in_backward:
            workers = self.workers if isinstance(self.workers, int) else self.workers[1]
            check_step_in_backward(workers, *self._sides().values())
        return self

    def _sides(self) -> dict[str, OptimizerParams]:
        """Return the optimizers of both sides by their keys."""
        sides: dict[str, OptimizerParams] = {"optimization": self.optimization}
        if (discriminator := self.opponent()) is not None:
            sides["discriminator.optimization"] = discriminator.optimization
        return sides

    @model_validator(mode="after")
    def _shards_are_whole_numbers_of_adamw(self) -> Self:
        if self.parallel == "fsdp":
            check_can_shard(self.optimization, self._sides())
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

    @model_validator(mode="after")
    def _the_best_model_is_whole(self) -> Self:
        if self.parallel == "fsdp" and self.validation is not None and self.validation.keep_best:
            raise ValueError(
                f"validation.keep_best = {self.validation.keep_best} writes a model now and then, "
                "which parallel = fsdp would have to gather each time: set keep_best to null"
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
    parallel: Parallel = "ddp"
    time_vectors: bool = False
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
            parallel=params.parallel,
            time_vectors=params.time_vectors,
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
        self,
        device: torch.device,
        recompute: Collection[Recomputable] = (),
        *,
        offload: bool = False,
    ) -> tuple[TrainingStep, Opponent | None]:
        """Build what is trained and its opponent: the same on every rank and in every attempt.

        `recompute` names what keeps no activations for the backward pass; `offload` keeps the
        weights of a sharded training in the host's memory.
        """
        torch.manual_seed(self.optimization.seed)
        restorer = begin_restorer(
            self.spec,
            open_weights(self.weights.local()),
            token_width=self.token_width,
            time_vectors=self.time_vectors,
        )
        if self.spec.condition != "text" and self.validation is None:
            restorer.backbone.drop_encoder()  # its latents are in the table of features
        discriminator = self._discriminator(restorer)
        if self.parallel == "fsdp":
            _shard(restorer, discriminator, Sharding(device, self.precision, offload))
        self._settle(restorer, discriminator, device)
        adversary = self._adversary(discriminator)
        step = TrainingStep(
            restorer,
            self._local_losses(),
            clean_condition=self.clean_condition,
            adversary=adversary,
            precision=self.precision,
        )
        move_rest(step, device)
        _keep_no_activations(step, adversary, recompute)
        if adversary is None or self.discriminator is None:
            return step, None
        move_rest(adversary, device)
        return step, Opponent(adversary, self.discriminator.optimization)

    def _local_losses(self) -> LossParams:
        """Return the losses with the identity network where this worker has it."""
        identity = self.losses.identity
        if identity is None or self.identity_network is None:
            return self.losses
        local = identity.model_copy(update={"network": self.identity_network.local()})
        return self.losses.model_copy(update={"identity": local})

    def _discriminator(self, restorer: HDRFace) -> Discriminator | None:
        params, weights = self.discriminator, self.discriminator_weights
        if self.losses.adversarial is None or params is None or weights is None:
            return None
        return DISCRIMINATORS[restorer.backbone.discriminator](
            open_weights(weights.local()).root,
            restorer.backbone.condition_width,
            lora=params.lora,
            noisy_input=params.noisy_input,
            condition=params.condition,
        )

    def _settle(
        self, restorer: HDRFace, discriminator: Discriminator | None, device: torch.device
    ) -> None:
        """Bring what is not sharded to the device, in the numbers that it is kept in."""
        weights = self.optimization.weights
        settle(unsharded(restorer.backbone), self.precision, device, trained=weights)
        settle(unsharded(restorer.condition), self.precision, device)
        if discriminator is not None and self.discriminator is not None:
            weights = self.discriminator.optimization.weights
            settle(unsharded(discriminator), self.precision, device, trained=weights)

    def _adversary(self, discriminator: Discriminator | None) -> Adversary | None:
        if discriminator is None or self.losses.adversarial is None:
            return None
        return Adversary(discriminator, self.losses.adversarial, precision=self.precision)

    def export(self, step: TrainingStep, folder: Path, *, is_first_rank: bool) -> None:
        """Write the trained folder, on the first rank. All ranks of a training must call it.

        Vectors of time become the published layers again.
        """
        tensors = None
        if is_sharded(step.restorer):
            trained_only = self.spec.trainable == "lora"
            tensors = whole_tensors(step.restorer, trained_only=trained_only)
        if is_first_rank:
            weights = open_weights(self.weights.local()).root if self.time_vectors else None
            save_restorer(
                step.restorer,
                folder,
                needs=self.needs,
                licences=self.licences,
                lineage=self.lineage,
                tensors=tensors,
                weights=weights,
            )


def _shard(restorer: HDRFace, discriminator: Discriminator | None, sharding: Sharding) -> None:
    """Shard what is large or trained; the autoencoder and the networks of losses are neither."""
    backbone, condition = restorer.backbone, restorer.condition
    sharding.shard(backbone.generator, backbone.generator_blocks())
    if any(parameter.requires_grad for parameter in condition.parameters()):
        sharding.shard(condition)
    check_trained(restorer)
    if discriminator is not None:
        sharding.shard(discriminator, discriminator.blocks())


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
