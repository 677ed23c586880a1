"""Files of tensors from other projects: read however they were wrapped, and never run."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from components.weights.checkpoints import misfits, read_tensors

STATE = {"norm.weight": torch.arange(3.0), "norm.bias": torch.ones(3)}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"params": {"other": torch.zeros(1)}, "params_ema": state},
        lambda state: {"state_dict": {f"module.{k}": v for k, v in state.items()}},
    ],
    ids=["plain", "state_dict", "params_ema", "module"],
)
def test_tensors_are_read_however_a_training_wrapped_them(
    wrap: Callable[..., object], tmp_path: Path
) -> None:
    torch.save(wrap(STATE), tmp_path / "a.pth")
    found = read_tensors(tmp_path / "a.pth")
    assert found.keys() == STATE.keys()
    assert all(torch.equal(found[name], STATE[name]) for name in STATE)


def test_safetensors_are_read_as_they_are(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "x.safetensors")
    assert torch.equal(read_tensors(tmp_path / "x.safetensors")["norm.weight"], torch.arange(3.0))


class _Evil:
    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return (exec, ("raise SystemExit('ran')",))


def test_a_pickle_is_never_run(tmp_path: Path) -> None:
    torch.save({"norm.weight": _Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match=r"evil\.pth is damaged, or holds more than tensors"):
        read_tensors(tmp_path / "evil.pth")
    torch.save([torch.zeros(3)], tmp_path / "list.pth")
    with pytest.raises(ValueError, match=r"list.pth holds no named tensors"):
        read_tensors(tmp_path / "list.pth")


@pytest.mark.parametrize("name", ["cut.pth", "cut.safetensors"])
def test_a_file_that_is_cut_short_is_named(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    if file.suffix == ".pth":
        torch.save(STATE, file)
    else:
        save_file(STATE, file)
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ValueError, match=rf"{name} is damaged"):
        read_tensors(file)


def test_every_kind_of_misfit_is_counted_and_the_first_few_are_named() -> None:
    places = dict.fromkeys("abcdef", (2, 3))
    tensors = {"a": (2, 3), "b": (3, 2), "x": (1,)}
    assert misfits(places, tensors) == [
        "lacks 4 tensors, e.g. c, d, e",
        "has no place for 1 tensors, e.g. x",
        "has another shape of 1 tensors, e.g. b is (3, 2), not (2, 3)",
    ]
    assert misfits(places, places) == []
