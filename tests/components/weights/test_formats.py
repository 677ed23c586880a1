"""The authors' files of the condition: fusion and projection."""

from pathlib import Path

import pytest
import torch
from torch import nn

from components.fusion.sdfm import SDFM
from components.weights.formats import load_published_condition
from tests.published_layouts import drawn, sdfm_shapes

WIDTH = 48


def write(folder: Path) -> dict[str, torch.Tensor]:
    state = drawn(sdfm_shapes(WIDTH), 0)
    torch.save(state, folder / "fusion.pth")
    return state


def test_half_numbers_fill_the_gate(tmp_path: Path) -> None:
    state = {name: tensor.half() for name, tensor in write(tmp_path).items()}
    torch.save(state, tmp_path / "fusion.pth")
    gate = SDFM(WIDTH)
    load_published_condition(tmp_path, gate, nn.Identity())
    assert all(torch.equal(value, state[name].float()) for name, value in gate.state_dict().items())


def test_qwen_also_has_a_projection(tmp_path: Path) -> None:
    write(tmp_path)
    projection = nn.Linear(WIDTH, 72)
    with pytest.raises(FileNotFoundError, match=r"holds no projection.pth"):
        load_published_condition(tmp_path, SDFM(WIDTH), projection)
    state = {name: torch.randn(value.shape) for name, value in projection.state_dict().items()}
    torch.save(state, tmp_path / "projection.pth")
    load_published_condition(tmp_path, SDFM(WIDTH), projection)
    assert torch.equal(projection.weight, state["weight"])


def test_what_does_not_fit_is_named_for_both_files(tmp_path: Path) -> None:
    write(tmp_path)
    torch.save({"weight": torch.zeros(3)}, tmp_path / "projection.pth")
    with pytest.raises(
        ValueError, match=r"(?s)fusion.pth has another shape of .*projection.pth la"
    ):
        load_published_condition(tmp_path, SDFM(WIDTH + 16), nn.Linear(WIDTH, 72))
