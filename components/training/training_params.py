"""The parameters of a restorer's training, and which of them do not go together.

The stages `plain` and `train` differ in their rows and their condition. All else is here.
"""

from pathlib import Path
from typing import Any, Self

from pydantic import Field, PositiveInt, model_validator

from components.backbones.backbone import Posterior, Trainable
from components.backbones.catalogue import BackboneName, check_posterior, check_trainable
from components.fusion.condition import TrainableConditionName
from components.params import Compute, ElasticBatch, Params, Workers
from components.restorers.spec import NoiseOf, RestorerSpec
from components.training.adversary import DiscriminatorParams
from components.training.optimization import (
    OptimizationParams,
    OptimizerParams,
    check_can_shard,
    check_step_in_backward,
)
from components.training.parallel import Parallel
from components.training.step import LossParams
from components.training.validation import ValidationParams
from components.weights.lora import LoraParams
from components.weights.precision import Precision
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
        if self.time_vectors and self.trainable != "full":
            raise ValueError(
                f"time_vectors = true with trainable = {self.trainable}: low-rank layers change "
                "matrices, which vectors replace: set time_vectors to false, or trainable to full"
            )
        return self

    @model_validator(mode="after")
    def _bf16_weights_are_computed_in_bf16(self) -> Self:
        for name, side in self.sides().items():
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
            check_step_in_backward(workers, *self.sides().values())
        return self

    def sides(self) -> dict[str, OptimizerParams]:
        """Return the optimizers of both sides by their keys."""
        sides: dict[str, OptimizerParams] = {"optimization": self.optimization}
        if (discriminator := self.opponent()) is not None:
            sides["discriminator.optimization"] = discriminator.optimization
        return sides

    @model_validator(mode="after")
    def _shards_are_whole_numbers_of_adamw(self) -> Self:
        if self.parallel == "fsdp":
            check_can_shard(self.optimization, self.sides())
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

    def out(self, backbone: BackboneName, condition: TrainableConditionName) -> Path:
        """Return the trained folder that is written."""
        return self.models / f"{backbone}-{condition}"

    def spec(
        self,
        backbone: BackboneName,
        condition: TrainableConditionName,
        *,
        size: int,
        encoder_size: int | None = None,
    ) -> RestorerSpec:
        """Return what the restorer will be, for faces of `size` pixels.

        Raises: ValueError if the backbone takes posterior means only and samples are asked for, or
            if it does not train as `trainable` says.
        """
        check_posterior(backbone, self.posterior)
        check_trainable(backbone, self.trainable)
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
