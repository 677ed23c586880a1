"""A training at rest: everything that the next step depends on, in safetensors and JSON.

    model.safetensors          trainable parameters and buffers         written by rank 0
    optimizer.safetensors      KIND/PARAMETER, e.g. exp_avg/unet.conv_in.weight
    state.json                 format, step, number of workers
    history.json               the points logged up to this step
    worker-R.safetensors       random states of rank R                  written by rank R
    worker-R.json              rows that rank R has read

All ranks write into one folder, or into folders that are merged afterwards.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

FORMAT = 1
Point = dict[str, float]  # of the history: `step`, `loss` and its terms, `images_per_s`, ...


@dataclass
class Progress:
    """Where one rank's training stands."""

    step: int = 0  # optimizer steps taken
    position: int = 0  # rows that this rank has read
    history: list[Point] = field(default_factory=list)


class Moving(NamedTuple):
    """What a training step changes, beside the random state of the process."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    noise: torch.Generator


def save(folder: Path, moving: Moving, progress: Progress, *, rank: int, world_size: int) -> None:
    """Write this rank's part of a checkpoint into an existing folder."""
    model, optimizer, noise = moving
    save_file(_random_states(noise), folder / f"worker-{rank}.safetensors")
    _write(folder / f"worker-{rank}.json", {"position": progress.position})
    if rank == 0:
        save_file(_contiguous(_trained(model)), folder / "model.safetensors")
        save_file(_contiguous(dict(_moments(model, optimizer))), folder / "optimizer.safetensors")
        _write(folder / "history.json", progress.history)
        _write(
            folder / "state.json",
            {"format": FORMAT, "step": progress.step, "world_size": world_size},
        )


def load(folder: Path, moving: Moving, *, rank: int, world_size: int) -> Progress:
    """Put a checkpoint into `moving` and the random state of this process.

    Raises: ValueError if the checkpoint is of another number of workers, format or model.
    """
    model, optimizer, noise = moving
    state = json.loads((folder / "state.json").read_text())
    if state["format"] != FORMAT:
        raise ValueError(
            f"{folder} has checkpoint format {state['format']}, this is {FORMAT}: delete it"
        )
    if state["world_size"] != world_size:
        raise ValueError(
            f"{folder} was written by {state['world_size']} workers and cannot go on with "
            f"{world_size}: set the number of workers back, or delete the checkpoint"
        )
    _load_model(folder / "model.safetensors", model)
    _load_moments(folder / "optimizer.safetensors", model, optimizer)
    _set_random_states(load_file(folder / f"worker-{rank}.safetensors"), noise)
    return Progress(
        step=state["step"],
        position=json.loads((folder / f"worker-{rank}.json").read_text())["position"],
        history=json.loads((folder / "history.json").read_text()),
    )


def _trained(model: nn.Module) -> dict[str, Tensor]:
    """Give what training may change: parameters that are not frozen, and buffers that are saved."""
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
        # A parameter without a gradient so far has no state yet.
        for kind, value in optimizer.state.get(parameter, {}).items():
            yield f"{kind}/{name}", value


def _load_moments(file: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    parameters = dict(model.named_parameters())
    for key, value in load_file(file).items():
        kind, _, name = key.partition("/")
        parameter = parameters[name]
        # The optimizer keeps `step` where it makes it: on the CPU unless fused on a GPU.
        optimizer.state[parameter][kind] = value.to(parameter.device)


def _random_states(noise: torch.Generator) -> dict[str, Tensor]:
    states = {"torch": torch.get_rng_state(), "noise": noise.get_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _set_random_states(states: dict[str, Tensor], noise: torch.Generator) -> None:
    torch.set_rng_state(states["torch"])
    noise.set_state(states["noise"])
    if torch.cuda.is_available() and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"])


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}


def _write(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value, allow_nan=False))
