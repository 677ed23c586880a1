"""What a step minimises, and which parts of the restorer it trains."""

from pathlib import Path

import pytest
import torch

from components.discriminators.catalogue import discriminator_named
from components.discriminators.discriminator import DiscriminatorOptions
from components.restorers.folder import begin_restorer
from components.restorers.spec import RestorerSpec
from components.training.adversary import Adversary
from components.training.step import Batch, LossParams, TrainingStep
from components.weights.store import open_weights
from tests.small_networks import SEES, SIZE


def step_of(
    networks: Path,
    losses: dict[str, object],
    backbone: str = "sd21",
    *,
    time_vectors: bool = False,
) -> TrainingStep:
    torch.manual_seed(0)
    spec = RestorerSpec.model_validate(
        {
            "backbone": backbone,
            "condition": "sdfm",
            "trainable": "full",
            "size": SIZE,
            "encoder_size": 32,
            "seed": 1,
        }
    )
    restorer = begin_restorer(
        spec, open_weights(networks / backbone), token_width=32, time_vectors=time_vectors
    )
    params = LossParams.model_validate(losses)
    adversary = None
    if params.adversarial is not None:
        kind = discriminator_named(f"{backbone}-discriminator")
        assert kind is not None
        adversary = Adversary(
            kind(
                networks / f"{backbone}-discriminator",
                restorer.backbone.condition_width,
                DiscriminatorOptions(condition=SEES[backbone]),
            ),
            params.adversarial,
        )
    return TrainingStep(restorer, params, adversary=adversary)


def batch(step: TrainingStep) -> Batch:
    draw = torch.Generator().manual_seed(1)
    hq, lq = torch.rand(2, 2, 3, SIZE, SIZE, generator=draw)
    tokens = torch.randn(2, 2, 9, 32, generator=draw)
    return Batch(hq, step.encode(lq), step.encode(hq), tokens[0], tokens[1])


@pytest.mark.parametrize("backbone", ["sd21", "qwen"])
def test_the_loss_is_the_weighted_sum_and_trains_only_gate_and_generator(
    networks: Path, backbone: str
) -> None:
    losses = {"latent": 0.5, "pixel": {"weight": 2.0, "range": "signed"}}
    step = step_of(networks, losses, backbone)
    terms = step(batch(step), torch.Generator().manual_seed(2))
    expected = 0.5 * terms["latent"] + 2.0 * terms["pixel"]
    torch.testing.assert_close(terms["loss"], expected)
    terms["loss"].backward()
    for name, parameter in step.named_parameters():
        if "vae" in name:
            assert parameter.grad is None
        elif parameter.requires_grad:
            assert parameter.grad is not None, name
    fusion = [n for n, p in step.named_parameters() if "fusion" in n and p.grad is not None]
    assert fusion


@pytest.mark.parametrize("backbone", ["sd21", "qwen"])
def test_vectors_of_time_begin_as_the_same_function_and_all_of_them_learn(
    networks: Path, backbone: str
) -> None:
    first, second = (
        step_of(networks, {"latent": 1.0}, backbone, time_vectors=vectors)
        for vectors in (False, True)
    )
    rows = batch(first)
    whole, folded = (step(rows, torch.Generator().manual_seed(2)) for step in (first, second))
    torch.testing.assert_close(folded["loss"], whole["loss"], atol=1e-6, rtol=0)
    folded["loss"].backward()
    vectors = [p for name, p in second.named_parameters() if name.endswith(".vector")]
    assert vectors
    assert all(p.grad is not None and p.grad.any() for p in vectors)
    without = [n for n, p in second.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []  # DDP waits for such a parameter for ever


@pytest.mark.parametrize(
    ("backbone", "loss", "fidelity_aware"),
    [("sd21", "softplus", False), ("qwen", "relativistic", True)],
)
def test_the_adversarial_term_is_one_of_the_sum_and_reaches_the_gate(
    networks: Path, backbone: str, loss: str, *, fidelity_aware: bool
) -> None:
    term = {"weight": 0.3, "loss": loss, "fidelity_aware": fidelity_aware}
    step = step_of(networks, {"latent": 0.5, "adversarial": term}, backbone)
    terms = step(batch(step), torch.Generator().manual_seed(2))
    weighted = {"latent": 0.5 * terms["latent"], "adversarial": 0.3 * terms["adversarial"]}
    torch.testing.assert_close(terms["loss"], sum(weighted.values()))
    for name, value in weighted.items():
        torch.testing.assert_close(terms[f"share_{name}"], value / terms["loss"])
    (gate,) = (p for n, p in step.named_parameters() if n.endswith("fusion.norm.weight"))
    (alone,) = torch.autograd.grad(terms["adversarial"], gate)
    assert alone.any()
    assert not any("discriminator" in name for name, _ in step.named_parameters())


def test_only_a_noised_condition_can_be_weighed_by_its_fidelity(networks: Path) -> None:
    term = {"weight": 1.0, "loss": "softplus", "fidelity_aware": True}
    step = step_of(networks, {"adversarial": term}, "sd21")
    with pytest.raises(ValueError, match=r"set losses\.adversarial\.fidelity_aware to false"):
        step(batch(step), torch.Generator().manual_seed(2))


def test_a_few_steps_on_one_batch_bring_the_restored_latent_closer(networks: Path) -> None:
    step = step_of(networks, {"latent": 1.0})
    one, noise = batch(step), torch.Generator()
    optimizer = torch.optim.AdamW([p for p in step.parameters() if p.requires_grad], lr=3e-3)
    values = []
    for _ in range(25):
        loss = step(one, noise)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(float(loss.detach()))
    assert values[-1] < 0.5 * values[0]


def test_losses_without_weight_and_networks_that_are_missing_are_refused(
    networks: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="every weight is 0"):
        step_of(networks, {"latent": 0})
    missing = {"identity": {"weight": 1.0, "network": str(tmp_path / "arcface.pth")}}
    with pytest.raises(FileNotFoundError, match=r"arcface\.pth"):
        step_of(networks, missing)
