"""What a training step keeps for its backward pass."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def recomputing(modules: Iterable[nn.Module]) -> None:
    """Let modules keep their inputs alone: what lies between is computed again when it is needed.

    It costs a second forward pass and changes no gradient.
    """
    for module in modules:
        module.forward = _Recomputed(module.forward)


class _Recomputed:
    def __init__(self, forward: Any) -> None:
        self._forward = forward

    def __call__(self, *args: Any, **options: Any) -> Any:
        if not torch.is_grad_enabled():
            return self._forward(*args, **options)
        return checkpoint(self._forward, *args, use_reentrant=False, **options)
