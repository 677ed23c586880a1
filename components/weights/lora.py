"""LoRA layers of a diffusers network, in the published `pytorch_lora_weights.safetensors`."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import PositiveInt
from safetensors.torch import load_file
from torch import Tensor, nn

from components.params import Params

FILE = "pytorch_lora_weights.safetensors"
ADAPTER = "default"


class LoraParams(Params):
    """Low-rank layers of a network; dropout is 0 (METHOD, section 3: rank 16, alpha 16)."""

    rank: PositiveInt
    alpha: PositiveInt
    targets: Sequence[str] | None = None  # None: the published list of the network
    # How A starts; B starts at zero. gaussian: normal, std 1 / rank, as the reference's Qwen-Image
    # and LoRA's authors draw it. peft: PEFT's own, uniform within 1 / sqrt(fan in), as the
    # reference's SD 2.1. The paper names none.
    init: Literal["gaussian", "peft"] = "gaussian"


def add(network: Any, params: LoraParams, published_targets: Sequence[str]) -> None:
    """Freeze the network and add trainable low-rank layers; the start changes no output (B = 0)."""
    from peft import LoraConfig

    network.requires_grad_(requires_grad=False)
    config = LoraConfig(
        r=params.rank,
        lora_alpha=params.alpha,
        lora_dropout=0.0,
        init_lora_weights="gaussian" if params.init == "gaussian" else True,
        target_modules=list(params.targets or published_targets),
    )
    with _seen_as_float32(network):
        network.add_adapter(config, adapter_name=ADAPTER)


@contextlib.contextmanager
def _seen_as_float32(network: nn.Module) -> Iterator[None]:
    """Show a network whose weights take no room; PEFT gives its layers the numbers of those beside.

    Beside weights in bfloat16 it would round what it draws.
    """
    weights = {parameter: parameter.data for parameter in network.parameters()}
    for parameter, weight in weights.items():
        parameter.data = weight.new_zeros((), dtype=torch.float32).expand_as(weight)
    try:
        yield
    finally:
        for parameter, weight in weights.items():
            parameter.data = weight


def save(
    network: Any,
    folder: Path,
    prefix: str,
    writer: Any,
    tensors: Mapping[str, Tensor] | None = None,
) -> None:
    """Write the LoRA layers by diffusers' own `writer`: keys start with `prefix` and a dot.

    `tensors` are those of the network by name, if it does not hold them whole (sharded).
    """
    from peft.utils import get_peft_model_state_dict

    layers = get_peft_model_state_dict(network, tensors, adapter_name=ADAPTER)
    metadata = network.peft_config[ADAPTER].to_dict()
    # PEFT holds a set, whose order differs from process to process, and so would the file's hash.
    metadata["target_modules"] = sorted(metadata["target_modules"])
    writer.save_lora_weights(
        folder, **{f"{prefix}_lora_layers": layers, f"{prefix}_lora_adapter_metadata": metadata}
    )


@torch.no_grad()
def merge(
    network: Any,
    device: torch.device,
    kept: torch.dtype | None = None,
    *,
    then: Callable[[nn.Module], object] | None = None,
) -> None:
    """Put W + alpha / rank · B A in place of each weight W with low-rank layers, and end these.

    The sum is made on `device` in float32, and stays there in the numbers `kept`, or in W's own.
    `then` is called with each layer before the next one is merged. Weights that are mapped from a
    file are not written to; one new weight at a time is made beside them.
    """
    from peft.tuners.lora import LoraLayer

    layered: list[Any] = [one for one in network.modules() if isinstance(one, LoraLayer)]
    for module in layered:
        layer = module.to(device).get_base_layer()
        merged = module.get_delta_weight(ADAPTER).float() + layer.weight
        layer.weight = nn.Parameter(merged.to(kept or layer.weight.dtype), requires_grad=False)
        if then is not None:
            then(layer)
    network.unload_lora()


def load(network: Any, folder: Path, prefix: str) -> None:
    """Read LoRA layers in the published layout into `network`, in float32.

    Raises: FileNotFoundError if the folder holds none.
    """
    file = folder / FILE
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing: the folder names LoRA layers but holds none")
    tensors = load_file(file)
    with _seen_as_float32(network):
        if any(".lora.down." in key for key in tensors):
            # An older diffusers spelling, often of the attention layers alone; diffusers looks at
            # the first key only, and drops what is spelled otherwise. Such a file means alpha =
            # rank.
            network.load_lora_adapter(renamed(tensors), prefix=prefix, adapter_name=ADAPTER)
        else:
            network.load_lora_adapter(folder, prefix=prefix, weight_name=FILE, adapter_name=ADAPTER)


def params_of(network: Any) -> LoraParams:
    """Return rank and alpha of the layers that were read into a network."""
    config = network.peft_config[ADAPTER]
    return LoraParams(rank=config.r, alpha=int(config.lora_alpha))


def renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return LoRA layers in one spelling: `lora_A` and `lora_B`, not `lora.down` and `lora.up`."""
    spellings = {".lora.down.": ".lora_A.", ".lora.up.": ".lora_B."}
    found = {}
    for key, value in tensors.items():
        name = key
        for old, new in spellings.items():
            name = name.replace(old, new)
        found[name] = value
    return found


def places(
    network: nn.Module, prefix: str, shapes: Mapping[str, Sequence[int]]
) -> dict[str, tuple[int, ...]]:
    """Return the shapes that LoRA layers must have in a network, at the modules that names lead to.

    `shapes` are those of the layers, in one spelling and below `prefix`. Both halves of each module
    are listed, also if only one is named; a name that leads to no layer of the network is not. The
    rank is that of most layers.
    """
    ranks = Counter(
        shape[0] for name, shape in shapes.items() if name.endswith(".lora_A.weight") and shape
    )
    rank = ranks.most_common(1)[0][0] if ranks else 0
    modules = dict(network.named_modules())
    found = {}
    for name in shapes:
        path, half, _ = name.rpartition(".lora_")
        module = modules.get(path.removeprefix(f"{prefix}.")) if half else None
        if path.startswith(f"{prefix}.") and isinstance(module, nn.Linear | nn.Conv2d):
            width_out, *rest = module.weight.shape
            found[f"{path}.lora_A.weight"] = (rank, *rest)
            found[f"{path}.lora_B.weight"] = (width_out, rank, *[1] * (len(rest) - 1))
    return found
