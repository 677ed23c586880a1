"""Files of tensors from other projects: read without running what they may hold, and compared."""

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

# What trainings wrap around their tensors; the first one found counts, as spandrel has it.
_WRAPPERS = ("model_state_dict", "state_dict", "params_ema", "params-ema", "params", "model", "net")
_NAMED = 3  # names of tensors that a message repeats


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Read named tensors from safetensors, or from a file of `torch.save` with tensors only.

    A training's wrappers are removed: a key such as `state_dict` around the tensors, and `module.`
    before names.

    Raises: FileNotFoundError; ValueError if the file is damaged or holds anything but named
        tensors, and so might run a program.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing: name a checkpoint")
    try:
        if file.suffix == ".safetensors":
            return dict(load_file(file))
        found = _unwrapped(torch.load(file, map_location="cpu", weights_only=True))
    except (SafetensorError, pickle.UnpicklingError, EOFError, RuntimeError) as error:
        raise ValueError(
            f"{file} is damaged, or holds more than tensors, which could run a program and is not "
            f"read: fetch it again, or give it as safetensors: {error}"
        ) from error
    if not isinstance(found, Mapping) or not all(isinstance(v, Tensor) for v in found.values()):
        raise ValueError(f"{file} holds no named tensors: give a state dict or safetensors")
    return {str(name).removeprefix("module."): tensor for name, tensor in found.items()}


def _unwrapped(found: Any) -> Any:
    for key in _WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            return found[key]
    return found


def misfits(places: Mapping[str, Sequence[int]], tensors: Mapping[str, Sequence[int]]) -> list[str]:
    """Say what keeps tensors from filling places, both given as shapes by name; nothing if they do.

    A line for each kind: tensors that are missing, that have no place, that have another shape.
    """
    shapes = [
        f"{name} is {tuple(tensors[name])}, not {tuple(places[name])}"
        for name in sorted(places.keys() & tensors.keys())
        if tuple(tensors[name]) != tuple(places[name])
    ]
    wrong = {
        "lacks": sorted(places.keys() - tensors.keys()),
        "has no place for": sorted(tensors.keys() - places.keys()),
        "has another shape of": shapes,
    }
    return [
        f"{what} {len(names)} tensors, e.g. {', '.join(names[:_NAMED])}"
        for what, names in wrong.items()
        if names
    ]


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor by its name."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
