"""Both games against plain float64 NumPy, and which side each loss teaches."""

import numpy as np
import pytest
import torch
from torch import Tensor

from components.losses.adversarial import (
    ADVERSARIAL,
    AdversarialName,
    gradient_penalty,
    perturb,
)

NAMES: list[AdversarialName] = ["softplus", "relativistic", "relativistic-paired"]


def logits(seed: int) -> Tensor:
    drawn = torch.randn(
        3, 1, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    return (2 * drawn).requires_grad_()


def log_sigmoid(x: np.ndarray) -> np.ndarray:
    return -np.log1p(np.exp(-x))


def expected(name: AdversarialName, fake: np.ndarray, real: np.ndarray) -> tuple[float, float]:
    """Return the generator's and the discriminator's loss, from the equations."""
    if name == "softplus":
        cross_entropy = -log_sigmoid(real).mean() - np.log(1 - 1 / (1 + np.exp(-fake))).mean()
        return float(np.log1p(np.exp(-fake)).mean()), float(cross_entropy / 2)
    paired = name == "relativistic-paired"
    other_real, other_fake = (real, fake) if paired else (real.mean(), fake.mean())
    one_minus = lambda x: np.log(1 - 1 / (1 + np.exp(-x)))  # noqa: E731
    generator = log_sigmoid(fake - other_real).mean() + one_minus(real - other_fake).mean()
    discriminator = log_sigmoid(real - other_fake).mean() + one_minus(fake - other_real).mean()
    return float(-generator / 2), float(-discriminator / 2)


@pytest.mark.parametrize("name", NAMES)
def test_both_losses_are_the_equations(name: AdversarialName) -> None:
    fake, real = logits(1), logits(2)
    game = ADVERSARIAL[name]
    generator, discriminator = expected(name, fake.detach().numpy(), real.detach().numpy())
    assert game.generator(fake, real).mean().item() == pytest.approx(generator, rel=1e-10)
    assert game.discriminator(fake, real).item() == pytest.approx(discriminator, rel=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_the_generator_learns_from_the_restored_side_alone(name: AdversarialName) -> None:
    fake, real = logits(1), logits(2)
    ADVERSARIAL[name].generator(fake, real).mean().backward()
    assert real.grad is None
    assert fake.grad is not None
    assert fake.grad.lt(0).all()  # every patch wants a higher logit
    assert torch.autograd.gradcheck(lambda x: ADVERSARIAL[name].generator(x, real.detach()), fake)


@pytest.mark.parametrize("name", NAMES)
def test_the_discriminator_raises_real_logits_and_lowers_restored_ones(
    name: AdversarialName,
) -> None:
    fake, real = logits(1), logits(2)
    ADVERSARIAL[name].discriminator(fake, real).backward()
    assert fake.grad is not None
    assert real.grad is not None
    assert fake.grad.gt(0).all()
    assert real.grad.lt(0).all()


@pytest.mark.parametrize("paired", [False, True])
def test_the_logit_that_is_subtracted_gives_the_discriminator_no_gradient(*, paired: bool) -> None:
    """With it, each patch would have a second part of the gradient, through the other's term."""
    fake, real = logits(1), logits(2)
    name: AdversarialName = "relativistic-paired" if paired else "relativistic"
    ADVERSARIAL[name].discriminator(fake, real).backward()
    with torch.no_grad():
        opponent = fake if paired else fake.mean()
        alone = -torch.sigmoid(-(real - opponent)) / 2 / real.numel()
    assert real.grad is not None
    torch.testing.assert_close(real.grad, alone)


def test_the_penalty_is_the_squared_change_under_noise_of_variance_0_005() -> None:
    latent = torch.zeros(4, 4, 64, 64)
    moved = perturb(latent, torch.Generator().manual_seed(1))
    assert moved.var().item() == pytest.approx(0.005, rel=0.02)
    real, perturbed = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 1.0])
    assert gradient_penalty(real, perturbed).item() == pytest.approx((4 + 1) / 2)
