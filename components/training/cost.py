"""What a part of a training step costs, counted on the meta device: shapes without numbers.

The real modules run, forward and backward, so that frozen weights, low-rank layers and what feeds
nothing are counted as they are. A multiply-add counts as two operations.
"""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from components.training.memory import Kept


@dataclass(frozen=True)
class Cost:
    """Of one row: operations of the forward pass, of forward and backward, and what is kept."""

    forward: int = 0
    step: int = 0
    kept: Kept = field(default_factory=Kept)

    def __add__(self, other: "Cost") -> "Cost":
        """Add the operations of passes that are not there at the same time; keep the larger."""
        kept = max(self.kept, other.kept, key=lambda one: one.everything)
        return Cost(self.forward + other.forward, self.step + other.step, kept)


def numbers(*modules: nn.Module, trained: bool | None = None) -> int:
    """Count the parameters: all, or those that are trained or frozen."""
    return sum(
        parameter.numel()
        for module in modules
        for parameter in module.parameters()
        if trained is None or parameter.requires_grad == trained
    )


def frozen_numbers(module: nn.Module) -> tuple[int, int]:
    """Count frozen matrices, and frozen vectors, which stay float32 (`precision.settle`)."""
    frozen = [parameter for parameter in module.parameters() if not parameter.requires_grad]
    matrices = sum(parameter.numel() for parameter in frozen if parameter.dim() > 1)
    return matrices, sum(parameter.numel() for parameter in frozen) - matrices


def forward_cost(compute: Callable[[], Any]) -> Cost:
    """Count a forward pass that no gradient follows."""
    with torch.no_grad(), _FusedAttention(), FlopCounterMode(display=False) as counter:
        compute()
    operations = counter.get_total_flops()
    return Cost(operations, operations)


def step_cost(
    compute: Callable[[], Tensor], *, networks: Iterable[Any] = (), blocks: Iterable[nn.Module] = ()
) -> Cost:
    """Count the forward and the backward pass of what `compute` returns.

    Args:
        compute: gives a tensor that depends on what needs a gradient.
        networks: of diffusers, whose own blocks would be computed again.
        blocks: modules that would be.
    """
    ledger = _Ledger([*networks, *blocks])
    with ExitStack() as stack:
        for network in networks:
            network.enable_gradient_checkpointing(ledger.block)
            stack.callback(network.disable_gradient_checkpointing)
        for block in blocks:
            _wrap(block, ledger, stack)
        stack.enter_context(_FusedAttention())
        counter = stack.enter_context(FlopCounterMode(display=False))
        with torch.autograd.graph.saved_tensors_hooks(ledger.keep, lambda tensor: tensor):
            result = compute()
        forward = counter.get_total_flops()
        torch.autograd.backward(result, torch.empty_like(result))
    return Cost(forward, counter.get_total_flops(), ledger.kept())


def _wrap(block: nn.Module, ledger: "_Ledger", stack: ExitStack) -> None:
    forward = block.forward
    block.forward = lambda *args, **options: ledger.block(forward, *args, **options)
    stack.callback(lambda: block.__dict__.pop("forward"))


class _Ledger:
    """What autograd keeps, and how much of that lies inside blocks that could be computed again.

    A storage counts once, however many tensors look at it; weights are there anyway.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        # Held: as long as a storage lives, its id is given to no other.
        self._weights = {
            id(storage := tensor.untyped_storage()): storage
            for module in modules
            for tensor in [*module.parameters(), *module.buffers()]
        }
        self._kept: dict[int, torch.UntypedStorage] = {}
        self._inputs: dict[int, torch.UntypedStorage] = {}
        self._inside = self._largest = self._depth = 0
        self._bytes = 0

    def keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if isinstance(tensor, nn.Parameter) or id(storage) in self._weights:
            return tensor
        if id(storage) not in self._kept:
            self._kept[id(storage)] = storage
            self._bytes += storage.nbytes()
        return tensor

    def block(self, compute: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Compute a block and note what it keeps."""
        if self._depth or not torch.is_grad_enabled():
            return compute(*args, **options)
        for value in [*args, *options.values()]:
            if isinstance(value, Tensor):
                storage = value.untyped_storage()
                self._inputs[id(storage)] = storage
        before = self._bytes
        self._depth += 1
        result = compute(*args, **options)
        self._depth -= 1
        self._inside += self._bytes - before
        self._largest = max(self._largest, self._bytes - before)
        return result

    def kept(self) -> Kept:
        inputs = sum(storage.nbytes() for storage in self._inputs.values())
        outside = self._bytes - self._inside
        return Kept(self._bytes, min(outside + inputs, self._bytes), self._largest)


class _FusedAttention(TorchFunctionMode):
    """Let attention without a mask keep and compute what GPUs' kernels do.

    On the meta device PyTorch would take the plain formula, which keeps a matrix of all pairs.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        options = kwargs or {}
        is_plain = options.get("attn_mask") is None and len(args) < 4
        if func is not F.scaled_dot_product_attention or not is_plain:
            return func(*args, **options)
        names = ("query", "key", "value")[len(args) :]
        return _Attention.apply(*args, *(options[name] for name in names))


class _Attention(torch.autograd.Function):
    """Attention by shapes: two products forward, five backward; inputs and output are kept.

    So do fused kernels: they compute the scores again, and keep no matrix of all pairs.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        # Heads lie inside tokens, as the kernels write them: the next layer needs no copy.
        result = ((query @ key.mT) @ value).transpose(1, 2).contiguous().transpose(1, 2)
        ctx.save_for_backward(query, key, value, result)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, _ = ctx.saved_tensors
        (gradient,) = gradients
        scores = query @ key.mT
        of_scores = gradient @ value.mT
        return of_scores @ key, of_scores.mT @ query, scores.mT @ gradient
