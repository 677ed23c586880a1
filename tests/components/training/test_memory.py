"""The arithmetic of a training's memory: METHOD's numbers, and a real network's bytes."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from components.training.cost import numbers
from components.training.memory import (
    BF16_KEPT,
    BFLOAT16,
    EIGHT_BITS,
    Kept,
    Part,
    Settings,
    checkpoint_bytes,
    memory,
)
from components.training.optimization import OptimizerParams
from components.weights.precision import settle

QWEN = Part("generator", trained=20_430_000_000, is_sharded=True)
WITH_MASTER = Settings(weight=BFLOAT16, gradient=BFLOAT16, master=4, computing=BFLOAT16)
GB = 1e9


def state(part: Part, settings: Settings) -> float:
    needed = memory([part], settings)
    return needed.weights + needed.gradients + needed.optimizer


@pytest.mark.parametrize("settings", [Settings(), WITH_MASTER])
def test_qwen_image_needs_sixteen_bytes_a_parameter(settings: Settings) -> None:
    assert state(QWEN, settings) == 16 * QWEN.trained
    assert state(QWEN, settings) / GB == pytest.approx(327, abs=0.5)
    assert state(QWEN, replace(settings, shards=8)) / GB == pytest.approx(41, abs=0.5)


def test_one_card_of_80_gb_holds_what_is_left_when_vectors_replace_modulation() -> None:
    settings = replace(WITH_MASTER, master=0, moment=EIGHT_BITS, steps_in_backward=True)
    part = replace(QWEN, trained=13_600_000_000)
    assert state(part, WITH_MASTER) / GB == pytest.approx(218, abs=0.5)
    assert memory([part], settings).weights / GB == pytest.approx(27, abs=0.5)
    assert memory([part], settings).optimizer / GB == pytest.approx(27, abs=0.7)  # 0.4 of scales
    assert memory([part], settings).gradients == 0
    whole = replace(QWEN, only_time=6_830_000_000)
    assert memory([whole], replace(settings, time_vectors=True)) == memory([part], settings)


@pytest.mark.parametrize("algorithm", ["adamw", "rmsprop"])
def test_weights_gradients_and_moments_are_those_of_a_real_network(algorithm: str) -> None:
    network = nn.Sequential(nn.Conv2d(3, 16, 3), nn.GroupNorm(4, 16), nn.Conv2d(16, 5, 1))
    network[0].requires_grad_(requires_grad=False)
    params = OptimizerParams.model_validate({"learning_rate": 1e-3, "algorithm": algorithm})
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = params.optimizer(trained)
    network(torch.rand(1, 3, 8, 8)).sum().backward()
    optimizer.step()
    part = Part(
        "network",
        trained=numbers(network, trained=True),
        frozen_float32=numbers(network, trained=False),
        num_moments=1 if algorithm == "rmsprop" else 2,
    )
    needed = memory([part], Settings())
    assert needed.weights == sum(parameter.nbytes for parameter in network.parameters())
    assert needed.gradients == sum(
        parameter.grad.nbytes for parameter in trained if parameter.grad is not None
    )
    # `step` is one number of each tensor, which the count leaves out.
    moments = [
        value for held in optimizer.state.values() for name, value in held.items() if name != "step"
    ]
    assert needed.optimizer == sum(value.nbytes for value in moments)
    assert checkpoint_bytes([part]) == sum(value.nbytes for value in [*moments, *trained])


def test_moments_of_8_bits_are_those_of_the_real_optimizer() -> None:
    """A profile with RMSprop has one moment; the way with 8 bits has AdamW's two."""
    network = nn.Linear(64, 32, bias=False)
    params = OptimizerParams(learning_rate=1e-3, algorithm="adamw-8bit")
    optimizer = params.optimizer(network.parameters())
    network(torch.rand(3, 64)).sum().backward()
    optimizer.step()
    (state,) = optimizer.state.values()
    held = sum(value.nbytes for name, value in state.items() if name != "step")
    part = Part("network", trained=numbers(network, trained=True), num_moments=1)
    assert memory([part], Settings(moment=EIGHT_BITS)).optimizer == held


def test_frozen_weights_are_those_that_bf16_stores() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)).requires_grad_(requires_grad=False)
    settle(network.modules(), "bf16", torch.device("cpu"))
    needed = memory([Part("x", frozen=12, frozen_float32=12)], Settings(computing=BFLOAT16))
    assert needed.weights == sum(parameter.nbytes for parameter in network.parameters())


def test_autocast_keeps_a_copy_of_each_trained_weight() -> None:
    part = Part("x", trained=10)
    assert memory([part], Settings(computing=BFLOAT16)).weights == 10 * (4 + 2)
    assert memory([part], WITH_MASTER).weights == 10 * 2


def test_the_host_takes_what_is_offloaded_and_every_gpu_what_is_not_shared() -> None:
    away = memory([QWEN], replace(WITH_MASTER, shards=8, offloads=True))
    assert (away.optimizer, away.host) == (0, 16 * QWEN.trained / 8)
    shared = memory([Part("autoencoder", frozen=100)], Settings(shards=8))
    assert shared.weights == 400


def test_activations_are_those_of_the_turn_that_keeps_more() -> None:
    parts = [
        Part("generator", kept=Kept(100, 10, 30), recomputable="generator"),
        Part("decoder", kept=Kept(50, 5, 20), recomputable="decoder"),
        Part("learns", turn="discriminator", kept=Kept(120, 20, 40)),
    ]
    assert memory(parts, Settings()).activations == 150
    assert memory(parts, Settings(computing=BFLOAT16)).activations == 150 * BF16_KEPT
    # Blocks are computed again one at a time: the largest counts once.
    both = Settings(recompute=("generator", "decoder"))
    assert memory(parts[:2], both).activations == 10 + 5 + 30
    assert memory(parts, both).activations == 120
