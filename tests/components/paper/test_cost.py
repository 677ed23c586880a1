"""Costs are counted as by hand, for all networks that a face passes through."""

import json
from contextlib import ExitStack
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from components.paper import cost, published
from components.paper.cost import Cost, Costs, measure
from components.paper.published import Row
from components.paper.scores import Missing, Project
from components.paper.sources import Sources
from components.restorers.folder import load_restorer
from components.restorers.hdrface import HDRFace
from tests.first_restorers import write_results
from tests.onnx_networks import onnx_network
from tests.small_networks import SIZE, networks, trained

__all__ = ["networks"]

CPU = torch.device("cpu")


class CountedAttention(TorchFunctionMode):
    """Count the multiply-adds of attention: queries by keys, and weights by values."""

    total = 0

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is F.scaled_dot_product_attention:
            named = dict(zip(("query", "key", "value"), args, strict=False)) | (kwargs or {})
            key, value = named["key"], named["value"]
            batch, heads, queries, width = named["query"].shape
            self.total += batch * heads * queries * key.shape[2] * (width + value.shape[3])
        return result


def by_hand(restorer: HDRFace, face_13HW: Tensor) -> int:
    """Count multiply-adds of layers: outputs, times the inputs that each of them sums."""
    total = 0

    def note(layer: nn.Module, _: Any, output: Tensor) -> None:
        nonlocal total
        weight = layer.weight
        assert isinstance(weight, Tensor)
        total += output.numel() * prod(weight.shape[1:])

    with ExitStack() as stack:
        for module in restorer.modules():
            if isinstance(module, nn.Linear | nn.Conv2d | nn.Conv3d):
                stack.callback(module.register_forward_hook(note).remove)
        attention = stack.enter_context(CountedAttention())
        restorer.restore(face_13HW, ["face"], [0])
    return int(total + attention.total)


def test_parameters_and_multiply_adds_include_the_first_restorer(
    tmp_path: Path, networks: Path
) -> None:
    folder = trained(tmp_path, networks, "sd21", "sdfm")
    found = measure(str(folder), CPU)
    restorer = load_restorer(folder)
    assert isinstance(restorer, HDRFace)
    first = restorer.intermediate
    assert isinstance(first, HDRFace)
    parts = {id(one): one.numel() for one in [*restorer.parameters(), *first.parameters()]}
    assert found.parameters_m == pytest.approx(sum(parts.values()) / 1e6)
    counted = by_hand(restorer, torch.rand(1, 3, SIZE, SIZE)) / 1e9
    # Less than a hundredth of the products lies outside of such layers.
    assert found.macs_g == pytest.approx(counted, rel=0.01)
    assert (found.steps, found.size, found.why) == (1, SIZE, "")
    assert found.seconds > 0


def test_an_onnx_file_has_parameters_and_no_operations(tmp_path: Path) -> None:
    found = measure(f"onnx:{onnx_network(tmp_path / 'half.onnx')}", CPU)
    assert found.parameters_m == 1e-6  # one number: the scale
    assert found.value("macs_g") is None
    assert found.why == "the operations of ONNX files are not counted here"


def test_what_is_no_restorer_has_no_cost(tmp_path: Path) -> None:
    write_results(tmp_path / "results", ["a"])
    sources = Sources(methods={"VQFR": str(tmp_path / "results"), "mine": "spandrel:nowhere.pth"})
    costs = Costs(sources, Project(tmp_path, tmp_path, tmp_path), tmp_path / "kept")
    told = {}
    for method, model in (("VQFR", None), ("mine", None), ("PGDiff", None), ("ours", "no-model")):
        missing = costs(Row(method, method, (), model=model))
        assert isinstance(missing, Missing)
        told[method] = missing.short
    assert told == {
        "VQFR": "no restorer",
        "mine": "failed",
        "PGDiff": "no restorer",
        "ours": "not trained",
    }


def test_a_cost_is_measured_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(place: str, device: torch.device) -> Cost:
        calls.append(place)
        return measure(place, device)

    monkeypatch.setattr(cost, "measure", counted)
    place = f"onnx:{onnx_network(tmp_path / 'half.onnx')}"
    (table,) = published.chosen("6")
    (row,) = (row for row in table.rows if row.method == "OSDFace")
    sources = Sources(methods={"OSDFace": place})
    for _ in range(2):
        costs = Costs(sources, Project(tmp_path, tmp_path, tmp_path), tmp_path / "kept")
        assert isinstance(costs(row), Cost)
    assert calls == [place]
    assert json.loads((tmp_path / "kept/cost-osdface.json").read_text())["parameters_m"] == 1e-6
