from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from components.training import checkpoint
from components.training.checkpoint import Moving, Progress


class Net(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.trained = nn.Linear(width, width)
        self.tied = self.trained
        self.frozen = nn.Linear(width, width).requires_grad_(requires_grad=False)
        self.unused = nn.Linear(width, width)
        self.norm = nn.BatchNorm1d(width)
        self.register_buffer("constant", torch.ones(2), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.norm(self.tied(self.frozen(x)))
        return result


def moving(seed: int, width: int = 4) -> Moving:
    torch.manual_seed(seed)
    net = Net(width)
    parameters = [parameter for parameter in net.parameters() if parameter.requires_grad]
    return Moving(net, torch.optim.AdamW(parameters, lr=0.1), torch.Generator().manual_seed(seed))


def one_step(at: Moving) -> None:
    x = torch.randn(8, 4) + torch.randn(8, 4, generator=at.noise)
    at.optimizer.zero_grad()
    at.model(x).square().sum().backward()
    at.optimizer.step()


def save(folder: Path, at: Moving, progress: Progress, ranks: int = 1) -> None:
    for rank in range(ranks):
        checkpoint.save(folder, at, progress, rank=rank, world_size=ranks)


def test_what_was_saved_goes_on_bit_for_bit(tmp_path: Path) -> None:
    second, first = moving(seed=2), moving(seed=1)
    one_step(first)
    one_step(first)
    progress = Progress(step=2, position=16, history=[{"step": 2, "loss": 0.1 + 0.2}])
    save(tmp_path, first, progress)
    second.model.frozen.load_state_dict(first.model.frozen.state_dict())
    for _ in range(3):
        one_step(first)
    assert checkpoint.load(tmp_path, second, rank=0, world_size=1) == progress
    for _ in range(3):
        one_step(second)
    for name, tensor in first.model.state_dict().items():
        assert torch.equal(tensor, second.model.state_dict()[name]), name


def test_frozen_parameters_stay_out(tmp_path: Path) -> None:
    from safetensors import safe_open

    save(tmp_path, moving(seed=1), Progress())
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        names = set(file.keys())
    assert {"trained.weight", "unused.bias", "norm.running_mean"} <= names
    assert not any(name.startswith(("frozen", "tied", "constant")) for name in names)


def test_nothing_is_a_pickle(tmp_path: Path) -> None:
    at = moving(seed=1)
    one_step(at)
    save(tmp_path, at, Progress(step=1), ranks=2)
    assert {file.name for file in tmp_path.iterdir()} == {
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
        "history.json",
        "worker-0.safetensors",
        "worker-0.json",
        "worker-1.safetensors",
        "worker-1.json",
    }


def test_another_number_of_workers_is_refused(tmp_path: Path) -> None:
    save(tmp_path, moving(seed=1), Progress(), ranks=2)
    with pytest.raises(ValueError, match="written by 2 workers and cannot go on with 3"):
        checkpoint.load(tmp_path, moving(seed=1), rank=0, world_size=3)


def test_another_model_is_refused(tmp_path: Path) -> None:
    save(tmp_path, moving(seed=1), Progress())
    with pytest.raises(ValueError, match=r"of another model: .* has shape \(4, 4\), not \(5, 5\)"):
        checkpoint.load(tmp_path, moving(seed=1, width=5), rank=0, world_size=1)
    other = moving(seed=1)
    other.model.unused.requires_grad_(requires_grad=False)
    with pytest.raises(ValueError, match=r"of another model: 2 names, e.g. unused.bias"):
        checkpoint.load(tmp_path, other, rank=0, world_size=1)
