"""LoRA layers of a diffusers network, in the published `pytorch_lora_weights.safetensors`."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
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


def merge(network: Any) -> None:
    """Add the low-rank layers to the weights, and take them away as layers."""
    network.fuse_lora(adapter_names=[ADAPTER])
    network.unload_lora()


def load(network: Any, folder: Path, prefix: str) -> None:
    """Read LoRA layers in the published layout into `network`.

    Raises: FileNotFoundError if the folder holds none.
    """
    file = folder / FILE
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing: the folder names LoRA layers but holds none")
    tensors = load_file(file)
    if any(".lora.down." in key for key in tensors):
        # An older diffusers spelling, often of the attention layers alone; diffusers looks at the
        # first key only, and drops what is spelled otherwise. Such a file means alpha = rank.
        network.load_lora_adapter(_renamed(tensors), prefix=prefix, adapter_name=ADAPTER)
    else:
        network.load_lora_adapter(folder, prefix=prefix, weight_name=FILE, adapter_name=ADAPTER)


def _renamed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    spellings = {".lora.down.": ".lora_A.", ".lora.up.": ".lora_B."}
    renamed = {}
    for key, value in tensors.items():
        name = key
        for old, new in spellings.items():
            name = name.replace(old, new)
        renamed[name] = value
    return renamed
