from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from components.training import checkpoint
from components.training.checkpoint import Moving, Progress
from components.training.streams import Stream


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


class At(NamedTuple):
    """A training: what a step changes, and the streams of all ranks."""

    moving: Moving
    streams: list[Stream]


class Rows:
    """Rows without content, which know their position."""

    position = 0

    def seek(self, position: int) -> None:
        self.position = position

    def take(self, count: int) -> None:
        self.position += count


def at(seed: int, width: int = 4, num_streams: int = 1) -> At:
    torch.manual_seed(seed)
    net = Net(width)
    parameters = [parameter for parameter in net.parameters() if parameter.requires_grad]
    cpu = torch.device("cpu")
    streams = [Stream(Rows(), number, seed=seed, device=cpu) for number in range(num_streams)]
    return At(Moving(net, torch.optim.AdamW(parameters, lr=0.1)), streams)


def one_step(now: At) -> None:
    model, optimizer = now.moving.model, now.moving.optimizer
    optimizer.zero_grad()
    for stream in now.streams:
        stream.batches.take(8)
        with stream.randomness() as noise:
            x = torch.randn(8, 4) + torch.randn(8, 4, generator=noise)
            model(x).square().sum().backward()
    optimizer.step()


def save(folder: Path, now: At, progress: Progress, num_ranks: int = 1) -> None:
    """Write the parts of all ranks."""
    for rank in range(num_ranks):
        checkpoint.save(
            folder,
            now.moving,
            progress,
            now.streams[rank::num_ranks],
            num_streams=len(now.streams),
            is_first_rank=rank == 0,
        )


def load(folder: Path, now: At) -> Progress:
    return checkpoint.load(folder, now.moving, now.streams, num_streams=len(now.streams))


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_a_checkpoint_of_several_ranks_continues_bit_for_bit_on_one(
    tmp_path: Path, num_ranks: int
) -> None:
    second, first = at(seed=2, num_streams=3), at(seed=1, num_streams=3)
    one_step(first)
    one_step(first)
    progress = Progress(step=2, history=[{"step": 2, "loss": 0.1 + 0.2}])
    save(tmp_path, first, progress, num_ranks)
    second.moving.model.frozen.load_state_dict(first.moving.model.frozen.state_dict())
    for _ in range(3):
        one_step(first)
    assert load(tmp_path, second) == progress
    assert [stream.batches.position for stream in second.streams] == [16, 16, 16]
    for _ in range(3):
        one_step(second)
    for name, tensor in first.moving.model.state_dict().items():
        assert torch.equal(tensor, second.moving.model.state_dict()[name]), name


def test_another_number_of_streams_distributes_the_rows_again_with_new_noise(
    tmp_path: Path,
) -> None:
    first, second = at(seed=1, num_streams=3), at(seed=1, num_streams=2)
    one_step(first)
    one_step(first)
    save(tmp_path, first, Progress(step=2))
    load(tmp_path, second)
    assert [stream.batches.position for stream in second.streams] == [24, 24]
    drawn = []
    for now in (at(seed=1), first, second):
        with now.streams[0].randomness() as noise:
            drawn.append((float(torch.rand(1)), float(torch.rand(1, generator=noise))))
    assert len({value for pair in drawn for value in pair}) == 6


def test_frozen_parameters_are_not_saved(tmp_path: Path) -> None:
    from safetensors import safe_open

    save(tmp_path, at(seed=1), Progress())
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        names = set(file.keys())
    assert {"trained.weight", "unused.bias", "norm.running_mean"} <= names
    assert not any(name.startswith(("frozen", "tied", "constant")) for name in names)


def test_nothing_is_a_pickle(tmp_path: Path) -> None:
    now = at(seed=1, num_streams=2)
    one_step(now)
    save(tmp_path, now, Progress(step=1), num_ranks=2)
    assert {file.name for file in tmp_path.iterdir()} == {
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
        "history.json",
        "stream-0.safetensors",
        "stream-0.json",
        "stream-1.safetensors",
        "stream-1.json",
    }


def test_another_model_is_refused(tmp_path: Path) -> None:
    save(tmp_path, at(seed=1), Progress())
    with pytest.raises(ValueError, match=r"of another model: .* has shape \(4, 4\), not \(5, 5\)"):
        load(tmp_path, at(seed=1, width=5))
    other = at(seed=1)
    other.moving.model.unused.requires_grad_(requires_grad=False)
    with pytest.raises(ValueError, match=r"of another model: 2 names, e.g. unused.bias"):
        load(tmp_path, other)
