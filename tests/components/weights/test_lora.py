"""How low-rank layers start, measured on layers that are wide enough for statistics."""

import math
from typing import Literal

import pytest
import scipy.stats
import torch
from diffusers.loaders.peft import PeftAdapterMixin
from torch import Tensor, nn

from components.weights import lora
from components.weights.lora import LoraParams

RANK = 16
FAN_IN = {"linear": 640, "conv": 24 * 3 * 3}


class Network(nn.Module, PeftAdapterMixin):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.conv = nn.Linear(640, 40), nn.Conv2d(24, 40, 3)


def started(
    init: Literal["gaussian", "peft"], dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    torch.manual_seed(0)
    network = Network().to(dtype)
    lora.add(network, LoraParams(rank=RANK, alpha=RANK, init=init), ["linear", "conv"])
    return {
        name: parameter.detach().flatten()
        for name, parameter in network.named_parameters()
        if "lora_" in name
    }


@pytest.mark.parametrize("layer", ["linear", "conv"])
def test_a_gaussian_start_has_the_deviation_one_over_rank(layer: str) -> None:
    drawn = started("gaussian")[f"{layer}.lora_A.default.weight"]
    assert scipy.stats.kstest(drawn, scipy.stats.norm(0, 1 / RANK).cdf).pvalue > 0.01


@pytest.mark.parametrize("layer", ["linear", "conv"])
def test_pefts_own_start_is_uniform_by_the_number_of_inputs(layer: str) -> None:
    drawn = started("peft")[f"{layer}.lora_A.default.weight"]
    bound = 1 / math.sqrt(FAN_IN[layer])
    assert scipy.stats.kstest(drawn, scipy.stats.uniform(-bound, 2 * bound).cdf).pvalue > 0.01


@pytest.mark.parametrize("init", ["gaussian", "peft"])
def test_both_start_without_effect(init: Literal["gaussian", "peft"]) -> None:
    layers = started(init)
    assert len(layers) == 4
    assert not any(values.any() for name, values in layers.items() if "lora_B" in name)


@pytest.mark.parametrize("init", ["gaussian", "peft"])
def test_beside_weights_in_bfloat16_the_same_is_drawn_and_not_rounded(
    init: Literal["gaussian", "peft"],
) -> None:
    exact, beside = started(init), started(init, torch.bfloat16)
    assert all(torch.equal(beside[name], values) for name, values in exact.items())
    assert {values.dtype for values in beside.values()} == {torch.float32}


def test_the_weights_stay_what_they_were() -> None:
    network = Network().to(torch.bfloat16)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    lora.add(network, LoraParams(rank=2, alpha=2), ["linear", "conv"])
    after = {name.replace(".base_layer", ""): value for name, value in network.state_dict().items()}
    assert all(after[name].dtype == torch.bfloat16 for name in before)
    assert all(torch.equal(after[name], value) for name, value in before.items())
