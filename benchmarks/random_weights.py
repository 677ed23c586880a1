"""Networks with random weights in the published layout, for benchmarks that download nothing.

Diffusers' networks are written in bfloat16 and never held as a whole in float32. Variance goes
through a network about unchanged, so no loss overflows.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from components.backbones.catalogue import FAMILIES
from components.discriminators.catalogue import DISCRIMINATORS
from components.encoders.arcface import IResNet
from components.losses.perceptual import PYIQA_NAMES, PerceptualName, needed_files
from components.weights.manifest import write_manifest
from components.weights.network_files import FILE
from components.weights.prompt import PROMPT_FILE

_VGG_WIDTHS = (64, 128, 256, 512, 512)  # of the layers that LPIPS and DISTS compare
_UNUSED_HALF = ("up_blocks.", "conv_norm_out.", "conv_out.")  # of SDXL: half of its weights


def write_backbone(folder: Path, backbone: str, sizes: Mapping[str, Any]) -> None:
    """Write and seal a generator, its autoencoder and its schedule; `sizes` has both parts."""
    family = FAMILIES[backbone]
    _write_network(lambda: family.make_vae(sizes["vae"]), folder / "vae")
    _write_network(
        lambda: family.make_generator(sizes["generator"])[0], folder / family.generator_folder
    )
    family.save_schedule(folder)
    _seal(folder)


def write_discriminator(folder: Path, backbone: str, sizes: Mapping[str, Any]) -> None:
    """Write and seal the backbone's opponent, with a constant prompt if `sizes` has one."""
    opponent = DISCRIMINATORS[FAMILIES[backbone].discriminator]
    with torch.device("meta"):
        network = opponent.make_network(sizes["discriminator"])
    _write_network(lambda: network, folder / opponent.folder, without=_UNUSED_HALF)
    if sizes.get("prompt") is not None:
        save_file(opponent.draw_prompt(network, sizes["prompt"]["tokens"]), folder / PROMPT_FILE)
    _seal(folder)


def write_encoder(folder: Path, sizes: Mapping[str, Any]) -> None:
    """Write DINOv3 in transformers' layout, as it initialises itself."""
    from transformers.models.dinov3_vit.configuration_dinov3_vit import DINOv3ViTConfig
    from transformers.models.dinov3_vit.modeling_dinov3_vit import DINOv3ViTModel

    torch.manual_seed(0)
    DINOv3ViTModel(DINOv3ViTConfig(**sizes["encoder"])).save_pretrained(folder)


def write_arcface(file: Path) -> None:
    """Write an iResNet-50 under the published keys."""
    torch.manual_seed(0)
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(IResNet().state_dict(), file)


def write_perceptual(name: PerceptualName) -> None:
    """Write what pyiqa loads for a loss to where it looks: below TORCH_HOME.

    Raises: FileExistsError if a file is there already, for it may be the published one.
    """
    own, vgg = needed_files(PYIQA_NAMES[name])
    draw = torch.Generator().manual_seed(0)
    for file, tensors in ((own, _heads(name, draw)), (vgg, _vgg(draw))):
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("xb") as target:
            torch.save(tensors, target)


def _heads(name: PerceptualName, draw: torch.Generator) -> dict[str, Tensor]:
    if name == "lpips":
        return {
            f"lin{index}.model.1.weight": torch.rand(1, width, 1, 1, generator=draw)
            for index, width in enumerate(_VGG_WIDTHS)
        }
    shape = (1, 3 + sum(_VGG_WIDTHS), 1, 1)  # of the picture itself, too
    return {key: torch.rand(shape, generator=draw) for key in ("alpha", "beta")}


def _vgg(draw: torch.Generator) -> dict[str, Tensor]:
    from torchvision.models import vgg16

    with torch.device("meta"):
        shapes = vgg16(weights=None).state_dict()
    return {
        # The classifier is loaded and not used: one number for all of its half a gigabyte.
        name: torch.zeros(()).expand(tensor.shape)
        if name.startswith("classifier.")
        else _drawn(name, tensor.shape, torch.float32, draw, gain=2.0)
        for name, tensor in shapes.items()
    }


def _write_network(make: Callable[[], Any], folder: Path, without: Sequence[str] = ()) -> None:
    with torch.device("meta"):
        network = make()
    folder.mkdir(parents=True)
    network.save_config(folder)
    draw = torch.Generator().manual_seed(0)
    tensors = {
        name: _drawn(name, tensor.shape, torch.bfloat16, draw)
        for name, tensor in network.state_dict().items()
        if not name.startswith(tuple(without))
    }
    save_file(tensors, folder / FILE, metadata={"format": "pt"})


def _drawn(
    name: str, shape: torch.Size, dtype: torch.dtype, draw: torch.Generator, *, gain: float = 1.0
) -> Tensor:
    """Draw a matrix that keeps the variance of what goes through it; vectors are 1 or 0."""
    if len(shape) < 2:
        return torch.full(shape, float(name.endswith("weight")), dtype=dtype)
    deviation = (gain / shape[1:].numel()) ** 0.5
    return torch.empty(shape, dtype=dtype).normal_(std=deviation, generator=draw)


def _seal(folder: Path) -> None:
    write_manifest(
        folder,
        name=folder.name,
        kind="stand-in",
        source="random numbers",
        revision=None,
        licence="none",
    )
