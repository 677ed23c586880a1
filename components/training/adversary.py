"""The discriminator's side of a training step (METHOD, sections 3 and 4; eq. 13 and 21).

A step has two turns. In the generator's, the discriminator is frozen and judges the restored
latent; in its own, it learns from the same latent, detached. Both are one forward and one backward
pass, so two optimizers take turns within a step.
"""

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from pydantic import NonNegativeFloat
from torch import Tensor, nn

from components.discriminators.discriminator import Discriminator, DiscriminatorOptions
from components.losses.adversarial import (
    ADVERSARIAL,
    AdversarialName,
    gradient_penalty,
    perturb,
)
from components.params import Params
from components.training.optimization import OptimizerParams
from components.weights.precision import Precision, computing

log = logging.getLogger(__name__)


class AdversarialParams(Params):
    """METHOD: 5e-3 and `softplus` for SD 2.1, 0.02 and `relativistic` for Qwen-Image.

    The other three are options of the reference.
    """

    weight: NonNegativeFloat
    loss: AdversarialName
    # Scales the generator's term of a face by 1 + 4 sigma_cond / sigma (Qwen-Image).
    fidelity_aware: bool = False
    gradient_penalty: NonNegativeFloat = 0.0  # R1 by a finite difference; the reference's: 5.0


class DiscriminatorParams(DiscriminatorOptions):
    """A discriminator and its optimizer."""

    weights: Path
    optimization: OptimizerParams


class _Pair(NamedTuple):
    """What a discriminator compares: real and restored latents, and the generator's condition."""

    real_BCHW: Tensor
    fake_BCHW: Tensor
    condition_BND: Tensor


class Adversary(nn.Module):
    """A discriminator that judges in the generator's turn and learns in its own."""

    def __init__(
        self,
        discriminator: Discriminator,
        params: AdversarialParams,
        *,
        precision: Precision = "float32",
    ) -> None:
        super().__init__()
        self.precision: Precision = precision
        self.discriminator = discriminator
        self.params = params
        self.loss = ADVERSARIAL[params.loss]
        # Names, since sharding puts other parameters in their places.
        self._trainable = {n for n, p in discriminator.named_parameters() if p.requires_grad}
        self._judged: _Pair | None = None

    def judge(
        self,
        fake_BCHW: Tensor,
        real_BCHW: Tensor,
        condition_BND: Tensor,
        generator: torch.Generator,
        invention_B: Tensor | None = None,
    ) -> Tensor:
        """Return the generator's term, with a gradient for the restored latent alone.

        The condition is detached: the gate must not learn to please by what it tells the judge.
        `invention_B` is sigma_cond / sigma, for `fidelity_aware`.
        """
        pair = _Pair(real_BCHW, fake_BCHW.detach(), condition_BND.detach())
        self._judged = pair
        draw = self.discriminator.draw(fake_BCHW, generator)
        # Until its own turn: what is computed again in the backward pass must find it frozen too.
        self._freeze(frozen=True)
        with computing(self.precision, fake_BCHW.device):
            fake = self.discriminator(fake_BCHW, pair.condition_BND, draw)
            real = fake.detach()  # for a game that does not look at real logits here
            if self.loss.generator_sees_real:
                with torch.no_grad():
                    real = self.discriminator(real_BCHW, pair.condition_BND, draw)
        loss_B1HW = self.loss.generator(fake, real)
        if invention_B is not None:
            loss_B1HW = (1 + 4 * invention_B).view(-1, 1, 1, 1) * loss_B1HW
        return loss_B1HW.mean()

    def forward(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the discriminator's loss on what it judged last, and the mean logits; scalars."""
        if self._judged is None:
            raise RuntimeError("the discriminator has judged nothing yet: its turn comes second")
        self._freeze(frozen=False)
        real_BCHW, fake_BCHW, condition_BND = self._judged
        draw = self.discriminator.draw(fake_BCHW, generator)
        # Real and restored in one pass: DDP allows one before a backward pass.
        sides = [real_BCHW, fake_BCHW]
        if self.params.gradient_penalty:
            sides.append(perturb(real_BCHW, generator))
        count = len(sides)
        noise = None if draw.noise_BCHW is None else torch.cat([draw.noise_BCHW] * count)
        many = draw._replace(timestep_B=torch.cat([draw.timestep_B] * count), noise_BCHW=noise)
        with computing(self.precision, fake_BCHW.device):
            logits_B1HW = self.discriminator(
                torch.cat(sides), torch.cat([condition_BND] * count), many
            )
        logits = logits_B1HW.chunk(count)
        real, fake = logits[:2]
        loss = self.loss.discriminator(fake, real)
        if self.params.gradient_penalty:
            penalty = gradient_penalty(real, logits[2])
            loss = loss + self.params.gradient_penalty * penalty
        means = {"logit_real": real.detach().mean(), "logit_fake": fake.detach().mean()}
        return {"loss": loss, **means}

    def _freeze(self, *, frozen: bool) -> None:
        for name, parameter in self.discriminator.named_parameters():
            if name in self._trainable:
                parameter.requires_grad_(not frozen)


class Referee:
    """Tells when one side has stopped learning from the other; asked at each point of a history.

    At chance, both games' loss of the discriminator is log 2. Far below, it has won, and the
    generator's gradient says nothing any more; with equal logits for real and restored, it has
    collapsed. It is told once, when it has lasted for PATIENCE points.
    """

    PATIENCE = 5
    WON = 0.05 * math.log(2)
    APART = 1e-3  # logits closer than this are equal

    def __init__(self) -> None:
        self._verdict: str | None = None
        self._points = 0

    def look(self, point: Mapping[str, float]) -> str | None:
        """Return what to tell about this point, if anything."""
        if "discriminator" not in point:
            return None
        verdict = None
        if point["discriminator"] < self.WON:
            verdict = (
                "the discriminator has won: it tells all restored latents from real ones; lower "
                "discriminator.optimization.learning_rate, or raise losses.adversarial.weight"
            )
        elif abs(point["logit_real"] - point["logit_fake"]) < self.APART:
            verdict = (
                "the discriminator has collapsed: real and restored latents get the same logit; "
                "raise discriminator.optimization.learning_rate, or lower its gradient_penalty"
            )
        self._points = self._points + 1 if verdict == self._verdict else 1
        self._verdict = verdict
        if verdict is None or self._points != self.PATIENCE:
            return None
        return f"step {point['step']:.0f}: {verdict}"
