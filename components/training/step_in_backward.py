"""The optimizer's step inside the backward pass: a gradient is used and freed at once."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class StepInBackward:
    """Steps an optimizer in every backward pass from now on, one parameter at a time.

    A parameter changes after its gradient is complete, and nothing before it in the backward pass
    reads it again: the result has the same bits as one step at the end.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, trainable: Sequence[nn.Parameter]) -> None:
        self._optimizer = optimizer
        self._norms: list[Tensor] = []
        for parameter in trainable:
            parameter.register_post_accumulate_grad_hook(self._step)  # type: ignore[no-untyped-call]

    def _step(self, parameter: Tensor) -> None:
        if parameter.grad is None:
            raise RuntimeError("a backward pass has ended without the gradient that it was for")
        self._norms.append(torch.linalg.vector_norm(parameter.grad, dtype=torch.float32))
        (group,) = self._optimizer.param_groups
        everything, group["params"] = group["params"], [parameter]
        self._optimizer.step()
        group["params"] = everything
        parameter.grad = None

    def norm(self) -> Tensor:
        """Return the norm of all gradients since the last call."""
        norms, self._norms = self._norms, []
        return nn.utils.get_total_norm(norms)
