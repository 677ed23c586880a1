"""A generator at its one timestep: what depends on t alone is a constant (METHOD, section 8).

A diffusion network embeds t, and linear layers make vectors of the embedding that shift and scale
its features: v = W silu(e) + b. The step has one t, so each layer gives one vector. `fold` puts the
vectors in place of the layers; `unfolded` puts the layers back, to publish what was trained.

B batch, F sinusoids of t, E width of its embedding, D width of a vector.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call


@dataclass(frozen=True)
class TimePath:
    """The layers of a generator that depend on t alone, by their names in it.

    sinusoids_1F: of the fixed timestep.
    embedder: makes the embedding of them.
    layers: each makes a vector of the embedding, after its activation.
    """

    sinusoids_1F: Tensor
    embedder: str
    layers: Mapping[str, nn.Module]


class TimeVector(nn.Module):
    """Give each row the vector that a layer makes of the fixed timestep: (B, any) -> (B, D).

    A layer that makes one vector for each half of the tokens is (2, D): (B, any) -> (B, 2, D).
    """

    def __init__(self, vector_D: Tensor) -> None:
        super().__init__()
        self.vector = nn.Parameter(vector_D, requires_grad=False)

    def forward(self, unused_BF: Tensor) -> Tensor:
        vector_D: Tensor = self.vector
        device = unused_BF.device.type
        # On the meta device, where costs are counted, nothing is autocast: PyTorch refuses to ask.
        if device != "meta" and torch.is_autocast_enabled(device):  # as the layer's own output
            vector_D = vector_D.to(torch.get_autocast_dtype(device))
        return vector_D.expand(unused_BF.shape[0], *vector_D.shape)


class NoEmbedder(nn.Module):
    """Pass the sinusoids on, for their batch: nothing is made of them any more."""

    def forward(self, sinusoids_BF: Tensor, condition: Tensor | None = None) -> Tensor:
        del condition
        return sinusoids_BF


@torch.no_grad()
def fold(generator: Any, path: TimePath) -> None:
    """Replace what depends on t alone by its vectors, float32; low-rank layers are in them."""
    embedding_1E = _embedding(generator, path)
    for name, activation in path.layers.items():
        vector_1D = _in_float32(generator.get_submodule(name), activation(embedding_1E))
        generator.set_submodule(name, TimeVector(vector_1D[0]))
    generator.set_submodule(path.embedder, NoEmbedder())


def is_folded(generator: nn.Module) -> bool:
    """Return whether the generator holds vectors in place of layers."""
    return any(isinstance(module, TimeVector) for module in generator.modules())


def num_freed(generator: Any, path: TimePath) -> int:
    """Count the parameters that folding frees: those of the layers, less the vectors."""
    layers = [generator.get_submodule(name) for name in path.layers]
    sizes = sum(
        parameter.numel()
        for layer in [generator.get_submodule(path.embedder), *layers]
        for parameter in layer.parameters()
    )
    return int(sizes - sum(layer.out_features for layer in layers))


@contextmanager
def unfolded(generator: Any, whole: Any, path: TimePath, published: Path) -> Iterator[None]:
    """Put the published layers back for the block, such that they give the folded vectors.

    W and the embedding stay as published, and the bias absorbs the rest: b' = v - W silu(e). Layers
    are mapped from their files, so the matrices are not all in memory.

    Args:
        generator: a folded one.
        whole: an unfolded one of the same sizes on the meta device, whose layers are loaded.
        path: of `whole`.
        published: the folder of the pretrained generator.

    Raises: ValueError if `published` holds another network.
    """
    names = [path.embedder, *path.layers]
    _load_layers(whole, names, published)
    _absorb(generator, whole, path)
    folded = {name: generator.get_submodule(name) for name in names}
    try:
        for name in names:
            generator.set_submodule(name, whole.get_submodule(name))
        yield
    finally:
        for name, module in folded.items():
            generator.set_submodule(name, module)


@torch.no_grad()
def _absorb(generator: nn.Module, whole: Any, path: TimePath) -> None:
    embedding_1E = _embedding(whole, path)
    for name, activation in path.layers.items():
        layer, folded = whole.get_submodule(name), generator.get_submodule(name)
        assert isinstance(folded, TimeVector)
        vector_D = folded.vector
        published_1D = _in_float32(layer, activation(embedding_1E))
        bias_D = layer.bias.float() + (vector_D.float().cpu() - published_1D[0])
        layer.bias = nn.Parameter(bias_D)


def _embedding(generator: Any, path: TimePath) -> Tensor:
    embedder = generator.get_submodule(path.embedder)
    device = next(embedder.parameters()).device
    return _in_float32(embedder, path.sinusoids_1F.to(device))


def _in_float32(layer: nn.Module, x: Tensor) -> Tensor:
    """Compute a layer in float32, however its weights are stored."""
    tensors = {name: tensor.float() for name, tensor in layer.state_dict().items()}
    result: Tensor = functional_call(layer, tensors, (x.float(),))
    return result


def _load_layers(whole: nn.Module, names: list[str], published: Path) -> None:
    layers = {name: whole.get_submodule(name) for name in names}
    wanted = {f"{name}.{key}" for name, layer in layers.items() for key in layer.state_dict()}
    found = _read(published, wanted)
    if missing := sorted(wanted - found.keys()):
        raise ValueError(
            f"{published} lacks {missing[0]}, of {len(missing)} tensors that are missing: give the "
            "weights that the training began with"
        )
    for name, layer in layers.items():
        tensors = {key: found[f"{name}.{key}"] for key in layer.state_dict()}
        try:
            layer.load_state_dict(tensors, assign=True)
        except RuntimeError as error:  # what load_state_dict raises for other shapes
            raise ValueError(f"{published} is of another network: {name}: {error}") from error


def _read(published: Path, names: set[str]) -> dict[str, Tensor]:
    """Map the tensors of these names from a generator's folder."""
    from diffusers.utils.constants import SAFE_WEIGHTS_INDEX_NAME, SAFETENSORS_WEIGHTS_NAME
    from safetensors import safe_open

    files, index = [SAFETENSORS_WEIGHTS_NAME], published / SAFE_WEIGHTS_INDEX_NAME
    if index.is_file():
        files = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    found = {}
    for file in files:
        with safe_open(published / file, framework="pt") as tensors:
            for name in names.intersection(tensors.keys()):
                found[name] = tensors.get_tensor(name)
    return found
