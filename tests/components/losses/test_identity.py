"""Identity loss: cosine of embeddings, gradients only to the picture."""

import numpy as np
import pytest
import torch
from torch import nn

from components.losses.identity import IdentityLoss


@pytest.fixture
def network() -> nn.Module:
    """A network that would change if it trained: batch norm and dropout."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2),
        nn.BatchNorm2d(4),
        nn.Tanh(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(4 * 4 * 4, 8),
    )


def pictures(seed: int) -> torch.Tensor:
    return torch.rand(3, 3, 9, 9, generator=torch.Generator().manual_seed(seed))


def test_it_is_one_minus_the_mean_cosine(network: nn.Module) -> None:
    restored, hq = pictures(1) * 1.4 - 0.2, pictures(2)
    loss = IdentityLoss(network)(restored, hq).item()
    with torch.no_grad():
        a = network(restored.clamp(0, 1)).double().numpy()
        b = network(hq).double().numpy()
    cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert loss == pytest.approx(1 - cosines.mean(), rel=1e-5)


def test_the_same_picture_has_no_identity_loss(network: nn.Module) -> None:
    assert IdentityLoss(network)(pictures(1), pictures(1)).item() == pytest.approx(0, abs=1e-6)


def test_gradients_reach_the_restoration_and_nothing_else(network: nn.Module) -> None:
    loss = IdentityLoss(network)
    restored, hq = pictures(1).requires_grad_(), pictures(2).requires_grad_()
    loss(restored, hq).backward()
    assert restored.grad is not None
    assert restored.grad.abs().sum() > 0
    assert hq.grad is None
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_training_step_does_not_change_the_network(network: nn.Module) -> None:
    loss = nn.ModuleList([IdentityLoss(network)]).train()[0]
    first = loss(pictures(1), pictures(2)).item()
    assert loss(pictures(1), pictures(2)).item() == first, "dropout is on"
    assert network.state_dict()["1.num_batches_tracked"] == 0
