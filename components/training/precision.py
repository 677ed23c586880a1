"""In which numbers a training step is computed, and what it keeps for its backward pass.

`bf16`: matrices of frozen networks are stored in bfloat16, and generator, autoencoder and
discriminator compute in it. What trains stays float32 unless its optimizer has `weights: bf16`. The
gate, normalisations and losses stay float32.
"""

import contextlib
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

Precision = Literal["float32", "bf16"]


def computing(precision: Precision, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Return a context in which matrix products and convolutions are computed so."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def store_frozen(network: nn.Module, precision: Precision) -> None:
    """Store the frozen matrices of a network as it computes: half of the memory with `bf16`.

    Vectors (biases, scales of normalisations) stay float32: they take no room.
    """
    _store(network, precision, trained=False)


def store_trained(network: nn.Module, weights: Precision) -> None:
    """Store the trained matrices of a network as its optimizer wants them. Vectors stay float32."""
    _store(network, weights, trained=True)


def _store(network: nn.Module, precision: Precision, *, trained: bool) -> None:
    if precision == "float32":
        return
    for parameter in network.parameters():
        is_matrix = parameter.dim() > 1 and parameter.is_floating_point()
        if is_matrix and parameter.requires_grad == trained:
            parameter.data = parameter.data.to(torch.bfloat16)


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
