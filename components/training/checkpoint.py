"""The checkpoint of a training: all that the next step depends on, in safetensors and JSON.

    model.safetensors          trainable parameters and buffers         written by rank 0
    optimizer.safetensors      KIND/PARAMETER, e.g. exp_avg/unet.conv_in.weight
    opponent-*.safetensors     both, of a discriminator
    state.json                 format, step, number of streams
    history.json               the points logged up to this step
    stream-S.safetensors       random states of stream S                written by its rank
    stream-S.json              rows of stream S that have been read

Of a sharded training, every rank writes its shards (`components.training.shards`):

    generator/, opponent/      model/PARAMETER and optimizer/KIND/PARAMETER

All ranks write into one folder, or into folders that are merged afterwards.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from components import history
from components.history import HISTORY, HistoryPoint
from components.training import shards
from components.training.parallel import is_sharded
from components.training.streams import Stream

FORMAT = 2
_PREFIXES = {"generator": "", "opponent": "opponent-"}  # of the files of a side that is not sharded


@dataclass
class Progress:
    """The progress of a training."""

    step: int = 0  # optimizer steps taken
    history: list[HistoryPoint] = field(default_factory=list)


class Moving(NamedTuple):
    """What a training step changes, apart from its streams."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    opponent: "Moving | None" = None


def save(
    folder: Path,
    moving: Moving,
    progress: Progress,
    streams: Sequence[Stream],
    *,
    num_streams: int,
    is_first_rank: bool = True,
) -> None:
    """Write this rank's part of a checkpoint, with its `streams`, into an existing folder.

    All ranks of a sharded training must call it.
    """
    for stream in streams:
        name = f"stream-{stream.number}"
        save_file(stream.random_states(), folder / f"{name}.safetensors")
        _write(folder / f"{name}.json", {"position": stream.batches.position})
    for name, side in _sides(moving):
        if is_sharded(side.model):
            shards.save(folder / name, _state(side))
        elif is_first_rank:
            _save_side(folder, side, _PREFIXES[name])
    if is_first_rank:
        (folder / HISTORY).write_bytes(history.encode(progress.history))
        _write(
            folder / "state.json",
            {"format": FORMAT, "step": progress.step, "num_streams": num_streams},
        )


def load(folder: Path, moving: Moving, streams: Sequence[Stream], *, num_streams: int) -> Progress:
    """Load a checkpoint into `moving` and this rank's `streams`, whichever ranks wrote it.

    If it has another number of streams, rows are distributed again: all streams start after an even
    share of the rows read so far, so some rows of the epoch come twice and others never.

    Raises: ValueError if the checkpoint has another format or model.
    """
    state = json.loads((folder / "state.json").read_text())
    if state["format"] != FORMAT:
        raise ValueError(
            f"{folder} has checkpoint format {state['format']}, this is {FORMAT}: delete it"
        )
    for name, side in _sides(moving):
        if is_sharded(side.model):
            _load_shards(folder / name, side)
        else:
            _load_side(folder, side, _PREFIXES[name])
    positions = [_position(folder, number) for number in range(state["num_streams"])]
    for stream in streams:
        if state["num_streams"] == num_streams:
            states = load_file(folder / f"stream-{stream.number}.safetensors")
            stream.resume(positions[stream.number], states)
        else:
            stream.start(sum(positions) // num_streams)
    points = history.decode((folder / HISTORY).read_bytes())
    return Progress(step=state["step"], history=points)


def _sides(moving: Moving) -> Iterator[tuple[str, Moving]]:
    yield "generator", moving
    if moving.opponent is not None:
        yield "opponent", moving.opponent


def _save_side(folder: Path, side: Moving, prefix: str) -> None:
    moments = dict(_moments(side.model, side.optimizer))
    save_file(_contiguous(_trained(side.model)), folder / f"{prefix}model.safetensors")
    save_file(_contiguous(moments), folder / f"{prefix}optimizer.safetensors")


def _load_side(folder: Path, side: Moving, prefix: str) -> None:
    _load_model(folder / f"{prefix}model.safetensors", side.model)
    _load_moments(folder / f"{prefix}optimizer.safetensors", side.model, side.optimizer)


def _state(side: Moving) -> dict[str, Tensor]:
    model = {f"model/{name}": tensor for name, tensor in _trained(side.model).items()}
    moments = _moments(side.model, side.optimizer)
    return model | {f"optimizer/{name}": tensor for name, tensor in moments}


def _load_shards(folder: Path, side: Moving) -> None:
    """Load model and moments; the optimizer has none yet, so they are made as the folder has them.

    Raises: ValueError if the folder is of another model.
    """
    parameters = dict(side.model.named_parameters())
    for key, size in shards.sizes(folder).items():
        section, _, rest = key.partition("/")
        kind, _, name = rest.partition("/")
        if section == "optimizer" and name in parameters:
            parameter = parameters[name]
            is_moment = size == parameter.shape  # else the optimizer's count of steps
            side.optimizer.state[parameter][kind] = (
                torch.zeros_like(parameter)
                if is_moment
                else torch.zeros(size, device=parameter.device)
            )
    shards.load(folder, _state(side))


def _position(folder: Path, stream: int) -> int:
    position: int = json.loads((folder / f"stream-{stream}.json").read_text())["position"]
    return position


def _trained(model: nn.Module) -> dict[str, Tensor]:
    """Return what training can change: parameters that are not frozen, and saved buffers."""
    frozen = {
        name
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if not parameter.requires_grad
    }
    shared = {name for name, _ in model.named_parameters(remove_duplicate=False)} - {
        name for name, _ in model.named_parameters()
    }
    return {
        name: tensor
        for name, tensor in model.state_dict().items()
        if name not in frozen and name not in shared
    }


def _load_model(file: Path, model: nn.Module) -> None:
    expected, found = _trained(model), load_file(file)
    if differing := sorted(expected.keys() ^ found.keys()):
        raise ValueError(f"{file} is of another model: {len(differing)} names, e.g. {differing[0]}")
    with torch.no_grad():
        for name, tensor in expected.items():
            if tensor.shape != found[name].shape:
                shapes = f"{tuple(found[name].shape)}, not {tuple(tensor.shape)}"
                raise ValueError(f"{file} is of another model: {name} has shape {shapes}")
            tensor.copy_(found[name])


def _moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in model.named_parameters():
        # A parameter that had no gradient yet has no state.
        for kind, value in optimizer.state.get(parameter, {}).items():
            yield f"{kind}/{name}", value


def _load_moments(file: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    parameters = dict(model.named_parameters())
    for key, value in load_file(file).items():
        kind, _, name = key.partition("/")
        parameter = parameters[name]
        # The optimizer keeps `step` where it was made: on the CPU unless fused on a GPU.
        optimizer.state[parameter][kind] = value.to(parameter.device)


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}


def _write(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value, allow_nan=False))
