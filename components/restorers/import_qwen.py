"""Make a trained folder of the weights that the authors published for Qwen-Image (METHOD, 4).

They lie in three files:

    pretrained.pth    pipe.dit.MODULE.lora_{A,B}{1,2}: low-rank layers; those of index 1 have alpha
                      0 and do nothing, those of index 2 act on the condition with alpha = rank
                      pipe.new_vae.encoder.NAME: the second encoder's causal convolutions
    fusion.pth        SDFM
    projection.pth    from DINOv3's width to Qwen-Image's
"""

import re
from collections.abc import Collection, Mapping
from pathlib import Path

from torch import Tensor, nn

from components.backbones import conditional_lora
from components.backbones.qwen_image import QwenImage
from components.backbones.second_encoder import SecondEncoder
from components.fusion.condition import TokenCondition
from components.restorers.hdrface import HDRFace
from components.restorers.importing import (
    SEED,
    refuse_existing,
    stand_on,
    write_imported,
)
from components.restorers.spec import RestorerSpec
from components.weights.checkpoints import shapes_of
from components.weights.formats import FUSION_FILE, PROJECTION_FILE, PublishedFolder
from components.weights.lora import LoraParams

GENERATOR_FILE = "pretrained.pth"
_FILES = (GENERATOR_FILE, FUSION_FILE, PROJECTION_FILE)
_LAYERS, _ENCODER = "pipe.dit.", "pipe.new_vae.encoder."
_RANK = 128  # the authors'
# Wan's own spelling of its encoder -> diffusers'; the authors' file has the latter.
_WAN = {
    r"^conv1\.": "conv_in.",
    r"^downsamples\.": "down_blocks.",
    r"^middle\.0\.": "mid_block.resnets.0.",
    r"^middle\.1\.": "mid_block.attentions.0.",
    r"^middle\.2\.": "mid_block.resnets.1.",
    r"^head\.0\.": "norm_out.",
    r"^head\.2\.": "conv_out.",
    r"\.residual\.0\.": ".norm1.",
    r"\.residual\.2\.": ".conv1.",
    r"\.residual\.3\.": ".norm2.",
    r"\.residual\.6\.": ".conv2.",
    r"\.shortcut\.": ".conv_shortcut.",
}


def import_qwen(
    source: Path,
    out: Path,
    *,
    base: Path,
    encoder: Path | None,
    intermediate: Path | None,
    size: int,
) -> dict[str, int]:
    """Write a trained folder with the published weights; return the tensors read of each file.

    Args:
        source: the authors' folder.
        out: the trained folder; must not exist.
        base: weights of Qwen-Image, such as `data/weights/qwen`.
        encoder: weights of DINOv3-L, such as `data/weights/dinov3`.
        intermediate: the first restorer, a restorer folder; None: its results come with the faces.
        size: pixels of a face.

    Raises: FileNotFoundError, FileExistsError; ValueError listing all tensors that do not fit, in
        which case nothing was written.
    """
    refuse_existing(out)
    published = PublishedFolder.read(source, _FILES)
    standing = stand_on(base, encoder, intermediate, out, size=size)
    backbone = QwenImage(standing.backbone)
    condition = TokenCondition("sdfm", standing.token_width, backbone.condition_width)
    assert condition.fusion is not None  # since it is `sdfm`
    parts: dict[str, nn.Module] = {
        FUSION_FILE: condition.fusion,
        PROJECTION_FILE: condition.projection,
    }
    for name, part in parts.items():
        published.compare(name, published.files[name], shapes_of(part.state_dict()))
    tensors = {_spelling(k): tensor for k, tensor in published.files[GENERATOR_FILE].items()}
    rank = _rank(tensors)
    published.compare(GENERATOR_FILE, tensors, _places(backbone, tensors, rank))
    published.refuse_misfits()
    for name, part in parts.items():
        part.load_state_dict(published.files[name])
    _fill(backbone, tensors, rank, source / GENERATOR_FILE)
    spec = RestorerSpec(
        backbone="qwen",
        condition="sdfm",
        trainable="conditional_lora",
        lora=LoraParams(rank=rank, alpha=rank),
        mlp="quick_gelu",
        base_numbers="float8",
        size=size,
        encoder_size=standing.encoder_size,
        seed=SEED,
        noise_of="seed",  # the authors set it anew for each picture
    )
    return write_imported(
        HDRFace(spec, backbone, condition),
        out,
        published,
        layout="qwen",
        needs=standing.needs,
        licences=standing.licences,
    )


def _rank(tensors: Mapping[str, Tensor]) -> int:
    return next((len(one) for name, one in tensors.items() if name.endswith(".lora_A2")), _RANK)


def _places(
    backbone: QwenImage, tensors: Mapping[str, Tensor], rank: int
) -> dict[str, tuple[int, ...]]:
    """Return the shapes that the generator's file must have, by our names."""
    names = conditional_lora.target_names(backbone.generator, backbone.lora_targets)
    encoder, trained = backbone.vae.encoder, _trained(backbone.vae.encoder)
    # A file may hold more of the encoder than what was trained.
    own = {
        f"{_ENCODER}{name}": tuple(tensor.shape)
        for name, tensor in encoder.state_dict().items()
        if name in trained or f"{_ENCODER}{name}" in tensors
    }
    return _layer_shapes(backbone.generator, names, rank) | own


def _fill(backbone: QwenImage, tensors: Mapping[str, Tensor], rank: int, file: Path) -> None:
    """Give a generator its low-rank layers and the second encoder."""
    names = conditional_lora.target_names(backbone.generator, backbone.lora_targets)
    backbone.train_only("conditional_lora", LoraParams(rank=rank, alpha=rank))
    layers = {
        f"{name}.{part}": tensors[f"{_LAYERS}{name}.{part}2"]
        for name in names
        for part in conditional_lora.PARTS
    }
    conditional_lora.fill(backbone.generator, layers, source=str(file))
    second = SecondEncoder(backbone.vae)
    own = second.encoder.state_dict()
    changed = {name: tensors.get(f"{_ENCODER}{name}", tensor) for name, tensor in own.items()}
    second.encoder.load_state_dict(changed, assign=True)
    backbone.second_encoder = second


def _spelling(name: str) -> str:
    """Return a tensor's name as this file uses it, whichever of the known spellings it has."""
    if name.startswith(_ENCODER):
        part = name.removeprefix(_ENCODER)
        for old, new in _WAN.items():
            part = re.sub(old, new, part)
        return f"{_ENCODER}{part}"
    name = re.sub(r"(\.lora_[AB][12])\.weight$", r"\1", name)
    return re.sub(r"\.attn\.to_out\.lora_", ".attn.to_out.0.lora_", name)


def _layer_shapes(
    generator: nn.Module, names: Collection[str], rank: int
) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for name in names:
        layer = generator.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        for index in (1, 2):
            shapes[f"{_LAYERS}{name}.lora_A{index}"] = (rank, layer.in_features)
            shapes[f"{_LAYERS}{name}.lora_B{index}"] = (layer.out_features, rank)
    return shapes


def _trained(encoder: nn.Module) -> set[str]:
    """Return what the authors trained: all causal convolutions but those between frames."""
    from diffusers.models.autoencoders.autoencoder_kl_qwenimage import QwenImageCausalConv3d

    return {
        f"{name}.{part}"
        for name, module in encoder.named_modules()
        if isinstance(module, QwenImageCausalConv3d) and not name.endswith("time_conv")
        for part in ("weight", "bias")
    }
