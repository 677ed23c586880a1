"""Checkpoints of other projects: one file of tensors, read without running what it may hold."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file


def read_tensors(file: Path) -> dict[str, Any]:
    """Read a `.safetensors` file, or a file of `torch.save` that holds tensors and nothing else.

    Returns: tensors by name, as they lie in the file, perhaps below a key such as `params_ema`.

    Raises: FileNotFoundError; pickle.UnpicklingError if the file holds more than tensors.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing: name a checkpoint")
    if file.suffix == ".safetensors":
        return dict(load_file(file))
    tensors: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    return tensors
