"""Read the authors' published files into this project's networks (METHOD, section 2).

`fusion.pth` and `projection.pth` are pickles, so they are read with `weights_only=True`, which
loads only tensors. The LoRA layers (`pytorch_lora_weights.safetensors`) need no
conversion: they are in diffusers' own layout.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

FUSION_FILE = "fusion.pth"
PROJECTION_FILE = "projection.pth"
FUSION_KEYS = (
    *("norm.weight", "norm.bias"),
    *("channel_mlp.0.weight", "channel_mlp.0.bias", "channel_mlp.2.weight", "channel_mlp.2.bias"),
    *("token_mlp.0.weight", "token_mlp.0.bias", "token_mlp.2.weight", "token_mlp.2.bias"),
)
PROJECTION_KEYS = ("weight", "bias")


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Read named tensors from safetensors, or from a `.pth` of tensors only.

    A training's wrappers are removed: `state_dict` around the tensors, `module.` before names.

    Raises: ValueError if the file holds anything but named tensors.
    """
    if file.suffix == ".safetensors":
        return load_file(file)
    found = torch.load(file, map_location="cpu", weights_only=True)
    if isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]
    if not isinstance(found, Mapping) or not all(isinstance(v, Tensor) for v in found.values()):
        raise ValueError(f"{file} holds no named tensors: give a state dict or safetensors")
    return {str(name).removeprefix("module."): tensor for name, tensor in found.items()}


def read_fusion(file: Path) -> dict[str, Tensor]:
    """Read the authors' `fusion.pth` as SDFM's state dict. Raises: ValueError naming wrong keys."""
    return _expect(file, read_tensors(file), FUSION_KEYS)


def read_projection(file: Path) -> dict[str, Tensor]:
    """Read the authors' `projection.pth` (a Linear layer). Raises: ValueError naming wrong keys."""
    return _expect(file, read_tensors(file), PROJECTION_KEYS)


def load_published_condition(folder: Path, fusion: nn.Module, projection: nn.Module) -> None:
    """Load the authors' `fusion.pth` and, where the projection has weights, `projection.pth`.

    Raises: FileNotFoundError if one is missing; ValueError if keys or shapes do not fit.
    """
    modules = [(fusion, FUSION_FILE, read_fusion)]
    if any(True for _ in projection.parameters()):
        modules.append((projection, PROJECTION_FILE, read_projection))
    for module, name, read in modules:
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} holds no {name}: copy it from the authors' release")
        try:
            module.load_state_dict(read(folder / name))
        except RuntimeError as error:  # what load_state_dict raises for other shapes
            raise ValueError(f"{folder / name} does not fit: {error}") from error


def _expect(file: Path, found: dict[str, Tensor], names: tuple[str, ...]) -> dict[str, Tensor]:
    missing, unknown = sorted(set(names) - found.keys()), sorted(found.keys() - set(names))
    if missing or unknown:
        raise ValueError(f"{file} is another network: it lacks {missing} and has {unknown}")
    return {name: tensor.float() for name, tensor in found.items()}
