"""Whose output was first not to be finite: told by name, in a real step and over ranks."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from components.training import loop
from components.training.finite import NonFiniteLossError, Watch
from components.training.optimization import OptimizationParams
from components.training.seat import Seat
from components.training.step import Batch
from tests.components.training.test_step import batch, step_of

LOSSES: dict[str, object] = {
    "pixel": {"weight": 1.0, "range": "signed"},
    "adversarial": {"weight": 0.1, "loss": "relativistic"},
}
CPU = torch.device("cpu")


class Same:
    """The same rows again and again, but for what `spoil` does to one of them."""

    def __init__(self, rows: Batch, spoiled_take: int | None = None) -> None:
        self.position, self._rows, self._spoiled = 0, rows, spoiled_take

    def seek(self, position: int) -> None:
        self.position = position

    def take(self, count: int) -> Batch:
        self.position += count
        if self._spoiled == self.position // count:
            return self._rows._replace(lq_latent_BCHW=self._rows.lq_latent_BCHW * math.inf)
        return self._rows


def spoil_in_call(module: nn.Module, number: int) -> None:
    """Let a module's call of this number, from 1, give something that is not a number."""
    calls = 0

    def hook(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor | None:
        nonlocal calls
        calls += 1
        return output * math.nan if calls == number else None

    module.register_forward_hook(hook)


@pytest.mark.parametrize(
    ("part", "told"),
    [
        (None, r"rows \(lq_latent_BCHW\), in step 2: look at this step's rows"),
        ("condition.projection", "gate, in step 2"),
        ("backbone.generator.conv_out", "generator, in step 2: lower the learning rate"),
        ("backbone.vae.decoder", "decoder, in step 2: set precision to float32"),
        ("pixel", "loss pixel, in step 2"),
        ("discriminator", r"discriminator, in step 2: lower discriminator\.optimization"),
    ],
)
def test_the_error_names_the_network_that_was_first(
    networks: Path, part: str | None, told: str
) -> None:
    step = step_of(networks, LOSSES)
    if part == "pixel":
        spoil_in_call(step.image_losses["pixel"], 2)
    elif part == "discriminator":
        judge = step._judge
        assert judge is not None
        spoil_in_call(judge.__self__.discriminator.head, 3)  # type: ignore[attr-defined]
    elif part is not None:
        spoil_in_call(step.restorer.get_submodule(part), 2)
    optimization = OptimizationParams.model_validate(
        {
            **{"steps": 4, "batch_size": 2, "learning_rate": 1e-4},
            **{"checkpoint_every": 4, "log_every": 4},
        }
    )
    rows = batch(step)
    with pytest.raises(NonFiniteLossError, match=rf"step 2: .* first .* not finite was {told}"):
        loop.train(
            step,
            lambda _: Same(rows, 2 if part is None else None),
            optimization,
            Seat(0, 1, 1, CPU, None, lambda *_: None),
        )


def test_what_follows_is_not_blamed_and_finite_outputs_never() -> None:
    watch = Watch()
    good, bad = torch.ones(3), torch.tensor([1.0, math.inf])
    watch.step = 6
    watch.look({"gate": good, "generator": good, "decoder": good})
    assert watch.found(1, CPU) is None
    watch.step = 7
    watch.look({"gate": good, "generator": bad, "decoder": bad})
    watch.step = 8
    watch.look({"gate": bad, "generator": bad, "decoder": bad})
    assert watch.found(1, CPU) == (7, "generator")
    assert Watch().found(1, CPU) is None
