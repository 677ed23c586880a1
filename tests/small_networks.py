"""Small networks of the real classes: in the published layout, made once per run, and trained.

Trained folders are restorers as a training begins them: nothing here depends on their quality.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from components.backbones.catalogue import BackboneName
from components.discriminators.discriminator import DiscriminatorCondition
from components.restorers.folder import begin_restorer, save_restorer
from components.restorers.spec import Need, RestorerSpec
from components.training import stand_ins
from components.training.stand_ins import StandInParams
from components.weights.manifest import write_manifest
from components.weights.store import open_model, open_weights

SIZE = 32
OTHER = {"sd21": "qwen", "qwen": "sd21"}  # whose plain restorer comes first
# What conditions a backbone's discriminator.
SEES: dict[str, DiscriminatorCondition] = {"sd21": "tokens", "qwen": "prompt"}

VAE = {
    "latent_channels": 4,
    "block_out_channels": [8, 8],
    "layers_per_block": 1,
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "norm_num_groups": 4,
}
UNET = {
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "cross_attention_dim": 24,
    "norm_num_groups": 4,
    "attention_head_dim": 2,
    "use_linear_projection": True,
}
QWEN_VAE = {
    "base_dim": 8,
    "z_dim": 4,
    "dim_mult": [1, 2],
    "num_res_blocks": 1,
    "temperal_downsample": [False],
}
MMDIT = {
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 4,
    "num_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 40,
    "axes_dims_rope": [4, 6, 6],
}
TINY_DECODER = {
    "latent_channels": 4,
    "encoder_block_out_channels": [8, 8],
    "decoder_block_out_channels": [8, 8],
    "num_encoder_blocks": [1, 1],
    "num_decoder_blocks": [1, 1],
}
DINO = {
    "image_size": 32,
    "patch_size": 16,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_register_tokens": 4,
}
SDXL = {
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [16, 32],
    "layers_per_block": 1,
    "transformer_layers_per_block": 1,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "cross_attention_dim": 24,
    "norm_num_groups": 4,
    "attention_head_dim": 2,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 40,
}
WAN = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 16,
    "freq_dim": 16,
    "ffn_dim": 32,
    "num_layers": 1,
}
TRAINING = {"steps": 2, "batch_size": 2, "crop": 16, "learning_rate": 1e-3}
PARAMS = {
    "sd21": {"vae": VAE, "generator": UNET, "autoencoder": TRAINING, "prompt": {"tokens": 3}},
    "qwen": {"vae": QWEN_VAE, "generator": MMDIT, "autoencoder": TRAINING, "prompt": {"tokens": 3}},
    "sd21-discriminator": {"discriminator": SDXL},
    "qwen-discriminator": {"discriminator": WAN, "prompt": {"tokens": 3}},
    "dinov3": {"encoder": DINO},
}


def make_network(name: str, folder: Path) -> Path:
    """Make a sealed stand-in of a network of PARAMS; a generator's output layer is not zero."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(3)
    faces = {
        split: draw.integers(256, size=(4, SIZE, SIZE, 3), dtype=np.uint8)
        for split in ("train", "test")
    }
    params = StandInParams.model_validate({"seed": 1, **PARAMS[name]})
    facts = stand_ins.make(name, params, faces, folder)
    _wake_output_layer(name, folder)
    if name == "sd21":
        _show_no_negative(folder)
    write_manifest(
        folder,
        name=name,
        kind="stand-in",
        source="a test",
        revision=None,
        licence="none",
        facts=facts,
    )
    return folder


def _wake_output_layer(name: str, folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    last = {"sd21": ("unet", "conv_out"), "qwen": ("transformer", "proj_out")}
    if name in last:
        part, layer = last[name]
        file = folder / part / "diffusion_pytorch_model.safetensors"
        tensors = load_file(file)
        torch.manual_seed(2)
        tensors[f"{layer}.weight"] = 0.1 * torch.randn_like(tensors[f"{layer}.weight"])
        save_file(tensors, file, metadata={"format": "pt"})


def _show_no_negative(folder: Path) -> None:
    """Turn the sign of what the decoder shows: untrained, it makes bright what was dark.

    Such a restoration is refused as another picture.
    """
    from safetensors.torch import load_file, save_file

    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    for part in ("weight", "bias"):
        tensors[f"decoder.conv_out.{part}"] *= -1
    save_file(tensors, file, metadata={"format": "pt"})


def make_tiny_decoder(folder: Path, **changes: Any) -> Path:
    """Make a random tiny decoder of the latents of `sd21`, in the published layout.

    Sizes can be changed; its pictures have more contrast than random weights give.
    """
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

    torch.manual_seed(4)
    network = AutoencoderTiny(**(TINY_DECODER | changes))
    with torch.no_grad():
        network.decoder.layers[-1].weight.mul_(4)
    network.save_pretrained(folder)
    return folder


def trained(
    root: Path,
    networks: Path,
    backbone: BackboneName,
    condition: str,
    lineage: Mapping[str, Any] | None = None,
    *,
    rank: int | None = None,
) -> Path:
    """Save a restorer as a trained folder; one of tokens stands on the other's plain one.

    With a rank, its generator has low-rank layers that change what it predicts.
    """
    folder = root / f"{backbone}-{condition}"
    weights = open_weights(networks / backbone)
    named = {"backbone": (weights.name, weights.fingerprint, networks / backbone)}
    sizes: dict[str, int] = {"size": SIZE}
    if condition != "text":
        other = trained(root, networks, OTHER[backbone], "text", lineage)
        encoder = open_weights(networks / "dinov3")
        named["encoder"] = (encoder.name, encoder.fingerprint, networks / "dinov3")
        named["intermediate"] = (other.name, open_model(other).fingerprint, other)
        sizes["encoder_size"] = DINO["image_size"]
    values = {"backbone": backbone, "condition": condition, "trainable": "full", "seed": 42}
    if rank is not None:
        values |= {"trainable": "lora", "lora": {"rank": rank, "alpha": rank}}
    torch.manual_seed(5)
    restorer = begin_restorer(
        RestorerSpec.model_validate(values | sizes), weights, token_width=DINO["hidden_size"]
    )
    for name, parameter in restorer.named_parameters():
        if "lora_B" in name:  # zero at the start of a training
            torch.nn.init.normal_(parameter, std=0.1)
    save_restorer(
        restorer,
        folder,
        needs={
            role: Need(name=name, fingerprint=fingerprint, hint=os.path.relpath(path, folder))
            for role, (name, fingerprint, path) in named.items()
        },
        licences=["none"],
        lineage=lineage or {"git": None},
    )
    return folder


@pytest.fixture(scope="session")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the networks of PARAMS in the published layout."""
    root = tmp_path_factory.mktemp("weights")
    for name in PARAMS:
        make_network(name, root / name)
    return root
