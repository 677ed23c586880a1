"""Low-rank layers of Qwen-Image that act on its condition only (METHOD, section 4).

Two latents are side by side in the image stream: z_t, which is restored, and z_cond, which shows
how the face looked. The frozen weights W see both; W + B A sees z_cond alone:

    y = [W x_t,  (W + alpha / rank · B A) x_cond]

So the generator takes z_t as it always did, and learns how to read the condition. An ordinary LoRA
is another model. A modulation is made of the timestep, not of tokens: of one embedding, the layer
makes one modulation for each half.

B batch, N tokens of one latent (2N in the stream), C and D widths, R rank.
"""

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MethodType
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from components.weights.lora import LoraParams

FILE = "conditional_lora.safetensors"  # names of the generator's parameters, as below
PARTS = ("lora_A", "lora_B")
# What computes in the feed-forward layers: diffusers' tanh-GELU, or x sigmoid(1.702 x), with which
# the authors' weights were trained.
Mlp = Literal["gelu", "quick_gelu"]
# In which numbers the frozen linear layers are: as the weights' folder has them, or rounded to 8
# bits (e4m3), as the authors kept them while they trained.
BaseNumbers = Literal["stored", "float8"]


class ConditionalLinear(nn.Linear):
    """A frozen linear layer with a low-rank part for the condition's half.

    Shape: tokens (B, 2N, C) -> (B, 2N, D); the timestep's embedding (B, C) -> (B, 2, D), what it
    makes for z_t and what it makes for z_cond.
    """

    def __init__(self, layer: nn.Linear, params: LoraParams) -> None:
        """Take over the layer's weights; A is drawn, B is 0, so nothing changes at the start."""
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight, self.bias = layer.weight, layer.bias
        self.scale = params.alpha / params.rank
        # What trains is float32, whatever the frozen numbers are.
        kind: dict[str, Any] = {"dtype": torch.float32, "device": layer.weight.device}
        self.lora_A = nn.Parameter(torch.empty(params.rank, self.in_features, **kind))
        self.lora_B = nn.Parameter(torch.zeros(self.out_features, params.rank, **kind))
        if params.init == "gaussian":
            nn.init.normal_(self.lora_A, std=1 / params.rank)
        else:
            nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))  # PEFT's own

    def forward(self, x: Tensor) -> Tensor:
        base = F.linear(x, self.weight, self.bias)
        if x.dim() == 2:
            return torch.stack([base, base + self._low_rank(x)], dim=1)
        first_BNC, condition_BNC = x.chunk(2, dim=1)
        if first_BNC.shape != condition_BNC.shape:
            raise ValueError(f"the image stream has {x.shape[1]} tokens: not two equal halves")
        first_BND, second_BND = base.chunk(2, dim=1)
        return torch.cat([first_BND, second_BND + self._low_rank(condition_BNC)], dim=1)

    def _low_rank(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(x, self.lora_A), self.lora_B) * self.scale


def add(generator: nn.Module, params: LoraParams, published_targets: Collection[str]) -> None:
    """Freeze the generator and give its layers low-rank parts for the condition.

    Raises: ValueError if a target is not one of the published ones: other layers see no halves.
    """
    targets = tuple(params.targets or published_targets)
    if unknown := sorted(set(targets) - set(published_targets)):
        raise ValueError(
            f"lora.targets: {unknown[0]} sees no condition beside what is restored; "
            f"conditional_lora takes {', '.join(published_targets)}"
        )
    generator.requires_grad_(requires_grad=False)
    for name in target_names(generator, targets):
        layer = generator.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        generator.set_submodule(name, ConditionalLinear(layer, params))
    for block in list(generator.modules()):
        if hasattr(block, "_modulate"):
            block._modulate = MethodType(_modulate_halves, block)  # type: ignore[assignment]


def target_names(generator: nn.Module, targets: Collection[str]) -> list[str]:
    """List the layers that end in one of the targets, in the generator's order."""
    endings = tuple(f".{target}" for target in targets)
    return [name for name, _ in generator.named_modules() if f".{name}".endswith(endings)]


def _modulate_halves(
    block: Any, x: Tensor, modulation: Tensor, index: None = None
) -> tuple[Tensor, Tensor]:
    """Shift and scale tokens; return them and their gate, as the block's own `_modulate` does.

    Shape: x (B, 2N, C) and modulation (B, 2, 3C), one for each half; or as the block's own, for
    text and for a generator whose modulation has no low-rank part: x (B, N, C), (B, 3C).
    """
    if modulation.dim() == 2:
        result: tuple[Tensor, Tensor] = type(block)._modulate(block, x, modulation, index)
        return result
    halves_B2NC = x.reshape(x.shape[0], 2, -1, x.shape[2])
    shift, scale, gate = (part.unsqueeze(2) for part in modulation.chunk(3, dim=-1))
    modulated_B2NC = halves_B2NC * (1 + scale) + shift
    return modulated_B2NC.flatten(1, 2), gate.expand_as(halves_B2NC).flatten(1, 2)


def save(generator: nn.Module, folder: Path, tensors: Mapping[str, Tensor] | None = None) -> None:
    """Write the low-rank parts into `folder`; `tensors` has them if the generator is sharded."""
    found = generator.state_dict() if tensors is None else tensors
    folder.mkdir(parents=True, exist_ok=True)
    parts = {
        name: tensor.detach().contiguous()
        for name, tensor in found.items()
        if name.rpartition(".")[2] in PARTS
    }
    save_file(parts, folder / FILE, metadata={"format": "pt"})


def load(generator: nn.Module, folder: Path) -> None:
    """Read the low-rank parts of a folder, as float32, into a generator that `add` has prepared.

    Raises: FileNotFoundError if the folder has none; ValueError if they are of another generator.
    """
    file = folder / FILE
    if not file.is_file():
        raise FileNotFoundError(
            f"{file} is missing: the folder names conditional low-rank layers but holds none"
        )
    tensors = {name: tensor.float() for name, tensor in load_file(file).items()}
    fill(generator, tensors, source=str(file))


def fill(generator: nn.Module, tensors: Mapping[str, Tensor], *, source: str) -> None:
    """Put tensors in the place of all low-rank parts; they keep their dtype.

    Raises: ValueError naming `source` and a tensor that is missing, unknown or of another shape.
    """
    places = {
        name: parameter
        for name, parameter in generator.named_parameters()
        if name.rpartition(".")[2] in PARTS
    }
    if differing := sorted(places.keys() ^ tensors.keys()):
        raise ValueError(f"{source} is of another generator: {len(differing)}, e.g. {differing[0]}")
    for name, place in places.items():
        if tensors[name].shape != place.shape:
            shapes = f"{tuple(tensors[name].shape)}, not {tuple(place.shape)}"
            raise ValueError(f"{source} is of another generator: {name} has shape {shapes}")
        place.data = tensors[name].to(place.device)


def use_quick_gelu(generator: nn.Module) -> None:
    """Let the feed-forward layers of both streams compute x sigmoid(1.702 x)."""
    from diffusers.models.activations import GELU, ApproximateGELU

    for name, module in list(generator.named_modules()):
        if isinstance(module, GELU):
            projection = module.proj
            with torch.device("meta"):  # its own weights are not needed
                quick = ApproximateGELU(projection.in_features, projection.out_features)
            quick.proj = projection
            generator.set_submodule(name, quick)


@torch.no_grad()
def round_to_float8(generator: nn.Module) -> None:
    """Round weights and biases of all linear layers to 8 bits; they are stored as before."""
    for module in generator.modules():
        if isinstance(module, nn.Linear):
            for parameter in (module.weight, module.bias):
                if parameter is not None:
                    parameter.data = parameter.to(torch.float8_e4m3fn).to(parameter.dtype)
