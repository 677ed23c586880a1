"""Make a trained folder of the weights that the authors published for Qwen-Image (METHOD, 4).

They lie in three files:

    pretrained.pth    pipe.dit.MODULE.lora_{A,B}{1,2}: low-rank layers; those of index 1 have alpha
                      0 and do nothing, those of index 2 act on the condition with alpha = rank
                      pipe.new_vae.encoder.NAME: the second encoder's causal convolutions
    fusion.pth        SDFM
    projection.pth    from DINOv3's width to Qwen-Image's
"""

import copy
import json
import os
import re
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

from torch import Tensor, nn

from components.backbones import conditional_lora
from components.backbones.qwen_image import QwenImage
from components.fusion.condition import TokenCondition
from components.restorers.catalogue import FOLDER, kind_of
from components.restorers.folder import save_restorer
from components.restorers.hdrface import HDRFace
from components.restorers.spec import Need, RestorerSpec
from components.weights.formats import (
    FUSION_FILE,
    PROJECTION_FILE,
    load_published_condition,
    read_tensors,
)
from components.weights.lora import LoraParams
from components.weights.manifest import RESULTS, sha256_of
from components.weights.store import WeightsFolder, open_model, open_weights

GENERATOR_FILE = "pretrained.pth"
_FILES = (GENERATOR_FILE, FUSION_FILE, PROJECTION_FILE)
_LAYERS, _ENCODER = "pipe.dit.", "pipe.new_vae.encoder."
_RANK = 128  # the authors'
_SEED = 42  # theirs too, set anew for each picture
_LICENCE = "MIT (HDRFace's authors)"
_SHOWN = 5  # names of each kind in a message
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
    source: Path, out: Path, *, base: Path, encoder: Path, intermediate: Path | None, size: int
) -> str:
    """Write a trained folder of the authors' weights and return its fingerprint.

    Args:
        source: the folder of their three files.
        out: the trained folder; it must not be there.
        base: the weights of Qwen-Image.
        encoder: the weights of DINOv3, which sees faces in its own size (224 pixels).
        intermediate: the restorer folder whose restorations come first; None: each face comes with
            its own.
        size: pixels of a face's side; the authors' is 512.

    Nothing is written if a file does not fit.

    Raises: FileExistsError if `out` is there; FileNotFoundError naming a missing file; ValueError
        naming tensors that are missing, unknown or of another shape.
    """
    if out.exists():
        raise FileExistsError(f"{out} is there already: remove it, or give another folder")
    for name in _FILES:
        if not (source / name).is_file():
            raise FileNotFoundError(f"{source} holds no {name}: copy it from the authors' release")
    weights, tokens = open_weights(base), open_weights(encoder)
    config = json.loads(tokens.path("config.json").read_text(encoding="utf-8"))
    backbone = QwenImage(weights.root)
    rank = _fill(backbone, read_tensors(source / GENERATOR_FILE), source / GENERATOR_FILE)
    condition = TokenCondition("sdfm", config["hidden_size"], backbone.condition_width)
    assert condition.fusion is not None  # as `sdfm` says
    load_published_condition(source, condition.fusion, condition.projection)
    spec = RestorerSpec(
        backbone="qwen",
        condition="sdfm",
        trainable="conditional_lora",
        lora=LoraParams(rank=rank, alpha=rank),
        mlp="quick_gelu",
        base_numbers="float8",
        size=size,
        encoder_size=config["image_size"],
        seed=_SEED,
        noise_of="seed",
    )
    needs = {"backbone": _need(weights, base, out), "encoder": _need(tokens, encoder, out)}
    licences = [weights.licence, tokens.licence, _LICENCE]
    if intermediate is not None:
        first = open_model(intermediate)
        hint = os.path.relpath(intermediate, out)
        role = RESULTS if kind_of(first) == FOLDER else "intermediate"
        needs[role] = Need(name=intermediate.name, fingerprint=first.fingerprint, hint=hint)
        licences += first.content["licences"]
    partial = out.with_name(f"{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    fingerprint = save_restorer(
        HDRFace(spec, backbone, condition),
        partial,
        needs=needs,
        licences=licences,
        lineage={"imported": {name: sha256_of(source / name) for name in _FILES}},
    )
    partial.rename(out)
    return fingerprint


def _need(weights: WeightsFolder, folder: Path, out: Path) -> Need:
    return Need(
        name=weights.name, fingerprint=weights.fingerprint, hint=os.path.relpath(folder, out)
    )


def _fill(backbone: QwenImage, found: Mapping[str, Tensor], file: Path) -> int:
    """Give a generator its low-rank layers and the second encoder; return the layers' rank.

    Raises: ValueError naming all that does not fit.
    """
    spelled = {name: _spelling(name) for name in found}
    tensors = {spelled[name]: tensor for name, tensor in found.items()}
    rank = next((len(t) for name, t in tensors.items() if name.endswith(".lora_A2")), _RANK)
    names = conditional_lora.target_names(backbone.generator, backbone.lora_targets)
    own = backbone.vae.encoder.state_dict()
    places = _layer_shapes(backbone.generator, names, rank) | {
        f"{_ENCODER}{name}": tuple(tensor.shape) for name, tensor in own.items()
    }
    # A file may hold more of the encoder than what was trained.
    optional = {f"{_ENCODER}{name}" for name in own.keys() - _trained(backbone.vae.encoder)}
    _check(file, {spelled[name]: name for name in found}, tensors, places, optional)

    backbone.train_only("conditional_lora", LoraParams(rank=rank, alpha=rank))
    layers = {
        f"{name}.{part}": tensors[f"{_LAYERS}{name}.{part}2"]
        for name in names
        for part in conditional_lora.PARTS
    }
    conditional_lora.fill(backbone.generator, layers, source=str(file))
    second: nn.Module = copy.deepcopy(backbone.vae.encoder)
    changed = {name: tensors.get(f"{_ENCODER}{name}", tensor) for name, tensor in own.items()}
    second.load_state_dict(changed, assign=True)
    backbone.second_encoder = second
    return rank


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


def _check(
    file: Path,
    written: Mapping[str, str],
    tensors: Mapping[str, Tensor],
    places: Mapping[str, tuple[int, ...]],
    optional: Collection[str],
) -> None:
    """Raise ValueError naming all tensors that are missing, unknown or of another shape.

    `written` has the spelling of the file for ours.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    wrong = {
        "lacks": sorted(places.keys() - tensors.keys() - set(optional)),
        "has unknown": sorted(written[name] for name in tensors.keys() - places.keys()),
        "has of another shape": [
            f"{written[name]} is {shapes[name]}, not {places[name]}"
            for name in sorted(places.keys() & shapes.keys())
            if shapes[name] != places[name]
        ],
    }
    found = [
        f"{what} {len(names)}: {', '.join(names[:_SHOWN])}{', …' if len(names) > _SHOWN else ''}"
        for what, names in wrong.items()
        if names
    ]
    if found:
        raise ValueError(
            f"{file} does not fit this Qwen-Image. Of its tensors, it {'; it '.join(found)}. "
            "Give the authors' file, and the weights of Qwen/Qwen-Image as the base"
        )
