"""The optimizer of a training: steps, batch, AdamW and the learning rate at each step."""

import math
from collections.abc import Iterable
from typing import Literal, Self

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from torch import nn

from components.params import Params


class OptimizerParams(Params):
    """One optimizer: AdamW (the paper's), or RMSprop with alpha 0.9 (the reference's for Qwen)."""

    algorithm: Literal["adamw", "rmsprop"] = "adamw"
    learning_rate: PositiveFloat  # after the warm-up
    weight_decay: NonNegativeFloat = 0.01  # PyTorch's default for AdamW; the paper names none
    betas: tuple[NonNegativeFloat, NonNegativeFloat] = (0.9, 0.999)  # of AdamW
    gradient_clip: PositiveFloat | None = None  # the largest norm of all gradients together

    @model_validator(mode="after")
    def _betas_are_below_one(self) -> Self:
        if max(self.betas) >= 1:
            raise ValueError(f"betas = {self.betas} must be below 1")
        return self

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Make the optimizer of these parameters."""
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
