"""The authors' files: fusion and projection, read without running a pickle."""

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from components.fusion.sdfm import SDFM
from components.weights.formats import (
    load_published_condition,
    read_fusion,
    read_projection,
    read_tensors,
)

WIDTH = 48


@pytest.fixture
def published() -> dict[str, torch.Tensor]:
    """An SDFM state dict under the reference's key names, written by hand."""
    draw = torch.Generator().manual_seed(0)
    shapes = {
        "norm.weight": (WIDTH,),
        "norm.bias": (WIDTH,),
        "channel_mlp.0.weight": (512, 3 * WIDTH),
        "channel_mlp.0.bias": (512,),
        "channel_mlp.2.weight": (WIDTH, 512),
        "channel_mlp.2.bias": (WIDTH,),
        "token_mlp.0.weight": (512, 3 * WIDTH),
        "token_mlp.0.bias": (512,),
        "token_mlp.2.weight": (1, 512),
        "token_mlp.2.bias": (1,),
    }
    return OrderedDict((k, torch.randn(v, generator=draw)) for k, v in shapes.items())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {f"module.{k}": v for k, v in state.items()},
        lambda state: {k: v.half() for k, v in state.items()},
    ],
    ids=["plain", "state_dict", "module", "half"],
)
def test_the_fusion_file_fits_the_gate_however_it_was_wrapped(
    published: dict[str, torch.Tensor], wrap: Callable[..., object], tmp_path: Path
) -> None:
    torch.save(wrap(published), tmp_path / "fusion.pth")
    gate = SDFM(WIDTH)
    load_published_condition(tmp_path, gate, nn.Identity())
    for key, tensor in gate.state_dict().items():
        torch.testing.assert_close(tensor, published[key], atol=2e-3, rtol=1e-3)


@pytest.mark.shared
def test_the_reference_weights_give_the_reference_numbers(shared_dir: Path, tmp_path: Path) -> None:
    golden = np.load(shared_dir / "golden" / "sdfm.npz")
    names = [k for k in golden if k.startswith("weight.")]
    state = {k.removeprefix("weight."): torch.from_numpy(golden[k]) for k in names}
    torch.save(state, tmp_path / "fusion.pth")
    gate = SDFM(WIDTH, hidden=32)
    gate.load_state_dict(read_fusion(tmp_path / "fusion.pth"))
    sr, lr = (torch.from_numpy(golden[k]).float() for k in ("sr", "lr"))
    fused, _ = gate(sr, lr)
    np.testing.assert_allclose(fused.detach().numpy(), golden["fused"], atol=2e-5)


def test_qwen_also_has_a_projection(published: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save(published, tmp_path / "fusion.pth")
    projection = nn.Linear(WIDTH, 72)
    with pytest.raises(FileNotFoundError, match=r"holds no projection.pth"):
        load_published_condition(tmp_path, SDFM(WIDTH), projection)
    state = {k: torch.randn(v.shape) for k, v in projection.state_dict().items()}
    torch.save(state, tmp_path / "projection.pth")
    load_published_condition(tmp_path, SDFM(WIDTH), projection)
    assert torch.equal(projection.weight, state["weight"])
    assert read_projection(tmp_path / "projection.pth").keys() == {"weight", "bias"}


def test_another_network_is_named_by_its_keys(
    published: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    published["gate.weight"] = published.pop("token_mlp.2.weight")
    torch.save(published, tmp_path / "fusion.pth")
    with pytest.raises(
        ValueError, match=r"lacks \['token_mlp.2.weight'\] and has \['gate.weight'\]"
    ):
        read_fusion(tmp_path / "fusion.pth")


def test_another_width_is_named(published: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save(published, tmp_path / "fusion.pth")
    with pytest.raises(ValueError, match=r"(?s)fusion.pth does not fit: .*norm.weight"):
        load_published_condition(tmp_path, SDFM(WIDTH + 16), nn.Identity())


class _Evil:
    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return (exec, ("raise SystemExit('ran')",))


def test_a_pickle_is_never_run(tmp_path: Path) -> None:
    torch.save({"norm.weight": _Evil()}, tmp_path / "fusion.pth")
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        read_tensors(tmp_path / "fusion.pth")
    torch.save([torch.zeros(3)], tmp_path / "list.pth")
    with pytest.raises(ValueError, match=r"list.pth holds no named tensors"):
        read_tensors(tmp_path / "list.pth")


def test_safetensors_are_read_as_they_are(tmp_path: Path) -> None:
    save_file({"weight": torch.arange(3.0)}, tmp_path / "x.safetensors")
    assert torch.equal(read_tensors(tmp_path / "x.safetensors")["weight"], torch.arange(3.0))
