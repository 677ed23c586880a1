"""Which network of a training first gave something that is infinite or not a number."""

from collections.abc import Mapping
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
