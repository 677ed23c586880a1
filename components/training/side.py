"""One of the two that take turns in a training step: what trains, its optimizer, its gradients."""

from typing import Any

import torch
from torch import Tensor, nn

from components.training.optimization import OptimizerParams
from components.training.parallel import is_sharded, replicated, whole_number
from components.training.seat import Seat
from components.training.step_in_backward import StepInBackward


class Side:
    """One of the two that take turns in a step: what is trained, or its opponent."""

    def __init__(
        self, module: nn.Module, params: OptimizerParams, *, seed: int, steps_in_backward: bool
    ) -> None:
        self.module, self.params = module, params
        self.trainable = [p for p in module.parameters() if p.requires_grad]
        self.optimizer = params.optimizer(self.trainable, seed=seed)
        self._in_backward = (
            StepInBackward(self.optimizer, self.trainable) if steps_in_backward else None
        )
        self._forward = module

    def share(self, seat: Seat) -> None:
        """Average gradients over all ranks from now on; a sharded module does so by itself."""
        if seat.world_size > 1 and not is_sharded(self.module):
            self._forward = replicated(self.module, seat.device)

    def begin(self, learning_rate: float) -> None:
        """Prepare a step: its learning rate, and no gradient yet."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.zero_grad(set_to_none=True)

    def turn(self, *inputs: Any, passes: float, is_last: bool) -> dict[str, Tensor]:
        """Make one of a step's backward passes; return this rank's part of the mean losses."""
        if isinstance(self._forward, nn.parallel.DistributedDataParallel):
            self._forward.require_backward_grad_sync = is_last  # what `no_sync` sets
        losses: dict[str, Tensor] = self._forward(*inputs)
        (losses["loss"] / passes).backward()  # type: ignore[no-untyped-call]
        return {name: value.detach() / passes for name, value in losses.items()}

    def descend(self, device: torch.device) -> Tensor:
        """Take the optimizer's step; return the norm of the gradient before it was clipped."""
        if self._in_backward is not None:  # it has been taken
            return self._in_backward.norm()
        gradients = [p.grad for p in self.trainable if p.grad is not None]
        norm = whole_number(nn.utils.get_total_norm(gradients), device)
        if self.params.gradient_clip is not None:
            nn.utils.clip_grads_with_norm_(self.trainable, self.params.gradient_clip, norm)
        self.optimizer.step()
        return norm
