"""The optimizer of a training: steps, batch, AdamW and the learning rate at each step."""

import math
from collections.abc import Iterable, Mapping
from typing import Literal, Self

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from torch import nn

from components.params import Params
from components.training.frugal_adamw import FrugalAdamW
from components.weights.precision import Precision


class OptimizerParams(Params):
    """One optimizer: AdamW (the paper's), or RMSprop with alpha 0.9 (the reference's for Qwen).

    `adamw-8bit` is AdamW with moments of 8 bits: a quarter of their memory.
    """

    algorithm: Literal["adamw", "adamw-8bit", "rmsprop"] = "adamw"
    # How trained matrices are stored. bf16 has no float32 copy: a step rounds stochastically.
    weights: Precision = "float32"
    learning_rate: PositiveFloat  # after the warm-up
    weight_decay: NonNegativeFloat = 0.01  # PyTorch's default for AdamW; the paper names none
    betas: tuple[NonNegativeFloat, NonNegativeFloat] = (0.9, 0.999)  # of AdamW
    gradient_clip: PositiveFloat | None = None  # the largest norm of all gradients together

    @model_validator(mode="after")
    def _betas_are_below_one(self) -> Self:
        if max(self.betas) >= 1:
            raise ValueError(f"betas = {self.betas} must be below 1")
        return self

    @model_validator(mode="after")
    def _bf16_weights_round_stochastically(self) -> Self:
        if self.weights == "bf16" and self.algorithm == "rmsprop":
            raise ValueError(
                "weights = bf16 needs algorithm = adamw or adamw-8bit: rmsprop rounds to the "
                "nearest number, so small steps would be lost"
            )
        return self

    def optimizer(
        self, parameters: Iterable[nn.Parameter], *, seed: int = 0
    ) -> torch.optim.Optimizer:
        """Make the optimizer of these parameters; `seed` is of the noise that rounds bf16 weights.

        Raises: ValueError if an optimizer that needs whole parameters is given sharded ones.
        """
        if self.algorithm == "adamw-8bit" or self.weights == "bf16":
            return FrugalAdamW(
                parameters,
                lr=self.learning_rate,
                betas=self.betas,
                weight_decay=self.weight_decay,
                eight_bits=self.algorithm == "adamw-8bit",
                seed=seed,
            )
        if self.algorithm == "rmsprop":
            return torch.optim.RMSprop(
                parameters, lr=self.learning_rate, alpha=0.9, weight_decay=self.weight_decay
            )
        return torch.optim.AdamW(
            parameters,
            lr=self.learning_rate,
            betas=self.betas,
            weight_decay=self.weight_decay,
            fused=True,  # one call for all tensors, also on a CPU: small models have many
        )


class OptimizationParams(OptimizerParams):
    """The optimizer's side of a training; the losses and what trains are declared elsewhere."""

    steps: PositiveInt  # of the optimizer
    batch_size: PositiveInt  # rows per worker and backward pass
    warmup_steps: NonNegativeInt = 0
    schedule: Literal["constant", "cosine"] = "constant"  # cosine: down to 0 at the last step
    accumulate: PositiveInt = 1  # backward passes per step
    # Use a gradient in the backward pass, as soon as it is there, and free it (both sides).
    step_in_backward: bool = False
    checkpoint_every: PositiveInt  # steps
    log_every: PositiveInt  # steps; a point of the history is the mean over them
    seed: int = 0

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.checkpoint_every % self.log_every:
            raise ValueError(
                f"checkpoint_every = {self.checkpoint_every} must be a multiple of log_every = "
                f"{self.log_every}, so that a checkpoint covers whole points of the history"
            )
        if self.warmup_steps >= self.steps:
            raise ValueError(
                f"warmup_steps = {self.warmup_steps} must be below steps = {self.steps}"
            )
        if self.step_in_backward and self.accumulate > 1:
            raise ValueError(
                "step_in_backward = true frees a gradient after one backward pass, and "
                f"accumulate = {self.accumulate} sums those of several: set accumulate to 1"
            )
        return self

    def learning_rate_at(self, step: int, *, of: OptimizerParams | None = None) -> float:
        """Return the learning rate of a step, counted from 0. It depends on nothing else.

        Another optimizer of the training (`of`) has the same warm-up and schedule.
        """
        rate = (of or self).learning_rate
        if step < self.warmup_steps:
            return rate * (step + 1) / self.warmup_steps
        if self.schedule == "constant":
            return rate
        progress = (step - self.warmup_steps) / (self.steps - self.warmup_steps)
        return rate * 0.5 * (1 + math.cos(math.pi * progress))


def check_step_in_backward(num_streams: int, *sides: OptimizerParams) -> None:
    """Raise ValueError if `sides` cannot step in their backward passes.

    One stream is one worker with one pass a step. Several workers average their gradients after the
    passes (DistributedDataParallel), when these steps would be taken already.
    """
    if num_streams > 1:
        raise ValueError(
            f"step_in_backward = true needs one worker, whose gradients nobody else adds to; there "
            f"are {num_streams}: set workers to 1"
        )
    for params in sides:
        if params.gradient_clip is not None:
            raise ValueError(
                f"gradient_clip = {params.gradient_clip} needs all gradients at once, and "
                "step_in_backward = true frees each: set gradient_clip to null on both sides"
            )


def check_can_shard(training: OptimizationParams, sides: Mapping[str, OptimizerParams]) -> None:
    """Raise ValueError if one of `sides`, by its key, has an optimizer that no shards can have."""
    if training.step_in_backward:
        raise ValueError(
            "step_in_backward = true needs whole gradients, and parallel = fsdp shards them: set "
            "step_in_backward to false, or parallel to ddp"
        )
    for name, side in sides.items():
        if side.algorithm == "adamw-8bit" or side.weights == "bf16":
            raise ValueError(
                f"{name}: algorithm = {side.algorithm} with weights = {side.weights} works on "
                "whole parameters, and parallel = fsdp shards them: set algorithm to adamw and "
                "weights to float32, or parallel to ddp"
            )
