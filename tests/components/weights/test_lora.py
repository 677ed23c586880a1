"""How low-rank layers start, measured on layers that are wide enough for statistics."""

import math
from pathlib import Path
from typing import Literal

import pytest
import scipy.stats
import torch
from diffusers.loaders.peft import PeftAdapterMixin
from safetensors.torch import save_file
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merged_weights_are_the_sum_in_their_own_numbers_and_old_ones_are_not_written_to(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    network = Network().to(dtype)
    before = network.state_dict()
    values = {name: value.clone() for name, value in before.items()}
    a, b = 0.1 * torch.randn(RANK, 640), torch.randn(40, RANK)
    file = {"net.linear.lora_A.weight": a, "net.linear.lora_B.weight": b}  # alpha is the rank
    save_file(file, tmp_path / lora.FILE)
    lora.load(network, tmp_path, "net")
    lora.merge(network, torch.device("cpu"))
    after = network.state_dict()
    assert after.keys() == before.keys()
    expected = values["linear.weight"].double() + b.double() @ a.double()
    unit = {torch.float32: 1e-6, torch.bfloat16: 2**-8}[dtype]  # of a rounding
    torch.testing.assert_close(after["linear.weight"].double(), expected, atol=1e-5, rtol=unit)
    assert {value.dtype for value in after.values()} == {dtype}
    assert all(torch.equal(before[name], value) for name, value in values.items())
    assert torch.equal(after["conv.weight"], values["conv.weight"])
