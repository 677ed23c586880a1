"""Which network of a training, and which loss, was first infinite or not a number.

S steps, T terms of the loss, N outputs of networks.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

NEVER = torch.iinfo(torch.int64).max
SLOWER = "lower the learning rate or clip gradients"
# By the first word of a name.
WHAT_TO_DO = {
    "rows": "look at this step's rows; a table of features has float16, which ends at 65504",
    "gate": SLOWER,
    "generator": f"{SLOWER}, or set precision to float32",
    "decoder": "set precision to float32, since autoencoders, Qwen-Image's above all, give NaN in "
    f"bfloat16 now and then; or {SLOWER}",
    "loss": f"look at this step's rows, or {SLOWER}",
    "discriminator": "lower discriminator.optimization.learning_rate or clip its gradients, or set "
    "precision to float32",
}


class NonFiniteLossError(ArithmeticError):
    """A loss was infinite or not a number; another step would spoil the weights."""


class Spoiled(NamedTuple):
    """The first output that is not finite: in which step, counted from 1, and whose."""

    step: int
    name: str

    def __str__(self) -> str:
        kind = self.name.partition(" ")[0]
        return (
            f"the first that is not finite was {self.name}, in step {self.step}: {WHAT_TO_DO[kind]}"
        )


class Watch(nn.Module):
    """Remembers which output was first not to be finite, where the outputs are: no GPU waits.

    step: the number of the training's step, which the loop sets.
    """

    def __init__(self) -> None:
        super().__init__()
        self.step = 0
        self._names: list[str] = []
        self._first: Tensor | None = None  # step · number of names + place of the name

    @torch.no_grad()
    def look(self, outputs: Mapping[str, Tensor]) -> None:
        """Look at what was computed in the order of the computation, always the same names."""
        self._names = list(outputs)
        finite_N = torch.stack([output.isfinite().all() for output in outputs.values()])
        keys_N = torch.arange(len(outputs), device=finite_N.device) + self.step * len(outputs)
        first = torch.where(finite_N, NEVER, keys_N).min()
        self._first = first if self._first is None else torch.minimum(self._first, first)

    def found(self, world_size: int, device: torch.device) -> Spoiled | None:
        """Return the first of all ranks, which must all ask; None if all was finite."""
        first = torch.tensor(NEVER, device=device) if self._first is None else self._first.clone()
        if world_size > 1:
            dist.all_reduce(first, op=dist.ReduceOp.MIN)
        if (key := int(first)) == NEVER or not self._names:
            return None
        step, place = divmod(key, len(self._names))
        return Spoiled(step, self._names[place])


def watch_of(step: nn.Module) -> Watch:
    """Return the watch of a training step; one that sees nothing if it has none."""
    return next((part for part in step.modules() if isinstance(part, Watch)), Watch())


def what_is_not_finite(
    values_ST: Tensor, names: Sequence[str], step: int, spoiled: Spoiled | None
) -> str:
    """Return which loss was the first, and what to do.

    Args:
        values_ST: the terms of the last steps, on this rank.
        names: of the terms.
        step: the last of these steps, counted from 1.
        spoiled: what a `Watch` found.
    """
    first = step - len(values_ST) + 1
    hint = "lower the learning rate, clip gradients or look at this step's rows"
    for offset, values_T in enumerate(values_ST.tolist()):
        # The sum comes last: the name of a term says more.
        for name, value in sorted(
            zip(names, values_T, strict=True), key=lambda term: term[0] == "loss"
        ):
            if not math.isfinite(value):
                # A backward pass may overflow behind finite outputs.
                is_behind = spoiled is not None and spoiled.step <= first + offset
                told = str(spoiled) if is_behind else hint
                return f"step {first + offset}: {name} is {value}: {told}"
    told = hint if spoiled is None else str(spoiled)
    return f"steps {first} to {step}: a loss of another worker is not finite: {told}"
