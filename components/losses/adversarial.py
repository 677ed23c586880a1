"""The two sides' losses from a discriminator's logits (METHOD, sections 3 and 4; eq. 13 and 21).

Logits may have any shape: an expectation is the mean over faces and patches. A higher logit means
"real". Which side gets a gradient is part of each formula: the other logit is detached here.
"""

from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

AdversarialName = Literal["softplus", "relativistic", "relativistic-paired"]


class AdversarialLoss(Protocol):
    """One game of generator and discriminator."""

    generator_sees_real: bool  # whether the generator's loss needs the logits of real latents

    def generator(self, fake: Tensor, real: Tensor) -> Tensor:
        """Return the generator's loss, element by element; gradients flow to `fake` alone."""

    def discriminator(self, fake: Tensor, real: Tensor) -> Tensor:
        """Return the discriminator's loss: one number; gradients flow to both."""


class Softplus:
    """SD 2.1's game (eq. 13): the non-saturating loss, and binary cross entropy.

    L_G = mean softplus(-fake),   L_D = (BCE(real, 1) + BCE(fake, 0)) / 2
    """

    generator_sees_real = False

    def generator(self, fake: Tensor, real: Tensor) -> Tensor:
        del real
        return F.softplus(-fake)

    def discriminator(self, fake: Tensor, real: Tensor) -> Tensor:
        return (F.softplus(-real).mean() + F.softplus(fake).mean()) / 2


class Relativistic:
    """Qwen-Image's game (eq. 21): each logit against the mean of the other side's.

    L_G = -E[log σ(fake - E real)] / 2 - E[log(1 - σ(real - E fake))] / 2
    L_D = -E[log σ(real - E fake)] / 2 - E[log(1 - σ(fake - E real))] / 2

    The logit that is subtracted is detached, but for the fake one in L_G. `paired`, the reference's
    option, takes the same patch of the other side in place of its mean.
    """

    generator_sees_real = True

    def __init__(self, *, paired: bool) -> None:
        self.paired = paired

    def generator(self, fake: Tensor, real: Tensor) -> Tensor:
        real = real.detach()
        above = fake - self._opponent(real)
        below = real - self._opponent(fake)
        return (F.softplus(-above) + F.softplus(below)) / 2

    def discriminator(self, fake: Tensor, real: Tensor) -> Tensor:
        above = real - self._opponent(fake).detach()
        below = fake - self._opponent(real).detach()
        return (F.softplus(-above).mean() + F.softplus(below).mean()) / 2

    def _opponent(self, logits: Tensor) -> Tensor:
        return logits if self.paired else logits.mean()


ADVERSARIAL: dict[AdversarialName, AdversarialLoss] = {
    "softplus": Softplus(),
    "relativistic": Relativistic(paired=False),
    "relativistic-paired": Relativistic(paired=True),
}


def gradient_penalty(real: Tensor, perturbed: Tensor) -> Tensor:
    """Return E[(D(z) - D(z + δ))²]: R1 by a finite difference, δ normal of variance 0.005."""
    return F.mse_loss(perturbed, real)


def perturb(latent_BCHW: Tensor, generator: torch.Generator) -> Tensor:
    """Return z + δ of `gradient_penalty`."""
    drawn = torch.randn(latent_BCHW.shape, generator=generator, device=generator.device)
    moved_BCHW: Tensor = latent_BCHW + 0.005**0.5 * drawn.to(latent_BCHW)
    return moved_BCHW
