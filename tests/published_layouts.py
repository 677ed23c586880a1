"""Small folders as authors publish them, with random weights; names and shapes are written out."""

import functools
from pathlib import Path

import numpy as np
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn

from components import images
from components.keyed_random import normals
from tests import small_networks
from tests.small_networks import DINO, SIZE, UNET, make_network

RANK = 4
CONDITION = int(str(UNET["cross_attention_dim"]))
WIDTHS = (32, 64)  # of the codebook's encoder: 32 pixels, 16 x 16 positions
CODE, CODES, HIDDEN = 32, 40, 8
ADAPTED = (
    *("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"),
    *("conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv"),
    "time_emb_proj",
)


def faces(count: int) -> Tensor:
    draw = np.random.default_rng(0)
    return images.to_tensor(list(draw.integers(256, size=(count, SIZE, SIZE, 3), dtype=np.uint8)))


def narrow_encoder(folder: Path) -> Path:
    """Make a DINOv3 whose tokens are as wide as the small UNet's condition."""
    sizes = {**DINO, "hidden_size": CONDITION, "intermediate_size": 48}
    before = small_networks.PARAMS["dinov3"]
    small_networks.PARAMS["dinov3"] = {"encoder": sizes}
    try:
        return make_network("dinov3", folder)
    finally:
        small_networks.PARAMS["dinov3"] = before


def drawn(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    """Draw tensors that keep the scale of what goes through them; norms are near the identity."""
    draw = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in shapes.items():
        scale = (np.prod(shape[1:]) if len(shape) > 1 else 100) ** -0.5
        tensors[name] = torch.randn(shape, generator=draw) * float(scale)
        if "norm" in name and name.endswith("weight"):
            tensors[name] += 1
    return tensors


def sdfm_shapes(width: int) -> dict[str, tuple[int, ...]]:
    return {
        "norm.weight": (width,),
        "norm.bias": (width,),
        "channel_mlp.0.weight": (512, 3 * width),
        "channel_mlp.0.bias": (512,),
        "channel_mlp.2.weight": (width, 512),
        "channel_mlp.2.bias": (width,),
        "token_mlp.0.weight": (512, 3 * width),
        "token_mlp.0.bias": (512,),
        "token_mlp.2.weight": (1, 512),
        "token_mlp.2.bias": (1,),
    }


@functools.cache
def lora_halves(base: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Draw A and B for every adapted layer of a UNet, by the layer's name."""
    unet = UNet2DConditionModel.from_pretrained(base / "unet")
    draw = torch.Generator().manual_seed(1)
    halves = {}
    for path, module in unet.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d) and path.endswith(
            tuple(f".{target}" for target in ADAPTED)
        ):
            width_out, *rest = module.weight.shape
            ones = [1] * (len(rest) - 1)
            halves[path] = (
                0.2 * torch.randn(RANK, *rest, generator=draw),
                0.2 * torch.randn(width_out, RANK, *ones, generator=draw),
            )
    return halves


def write_lora(folder: Path, base: Path, *, mixed: bool) -> None:
    """Write the layers; `mixed`: those of attention in the older spelling, as OSDFace's file."""
    tensors = {}
    for path, (a, b) in lora_halves(base).items():
        older = mixed and ".attn" in path
        for half, new, old in ((a, "lora_A", "lora.down"), (b, "lora_B", "lora.up")):
            tensors[f"unet.{path}.{old if older else new}.weight"] = half
    assert any("lora.down" in name for name in tensors) == mixed
    save_file(tensors, folder / "pytorch_lora_weights.safetensors")


def write_sd21(folder: Path, base: Path, *, mixed: bool = False) -> Path:
    folder.mkdir(parents=True)
    torch.save(drawn(sdfm_shapes(CONDITION), 3), folder / "fusion.pth")
    write_lora(folder, base, mixed=mixed)
    return folder


def codebook_shapes() -> dict[str, tuple[int, ...]]:
    """List the encoder's tensors as published: two levels, the second with attention."""
    narrow, wide = WIDTHS
    shapes: dict[str, tuple[int, ...]] = {}

    def layer(name: str, *shape: int) -> None:
        shapes[f"vqvae_LQ.{name}.weight"], shapes[f"vqvae_LQ.{name}.bias"] = shape, shape[:1]

    def block(name: str, width_in: int, width: int) -> None:
        layer(f"{name}.norm1", width_in)
        layer(f"{name}.conv1", width, width_in, 3, 3)
        layer(f"{name}.norm2", width)
        layer(f"{name}.conv2", width, width, 3, 3)
        if width_in != width:
            layer(f"{name}.nin_shortcut", width, width_in, 1, 1)

    def attention(name: str) -> None:
        for norm in ("norm1", "norm2"):
            layer(f"{name}.{norm}", wide)
        for part in ("q", "k", "v", "proj_out"):
            layer(f"{name}.{part}", wide, wide, 1, 1)

    layer("encoder.conv_in", narrow, 3, 3, 3)
    block("encoder.down.0.block.0", narrow, narrow)
    block("encoder.down.0.block.1", narrow, narrow)
    layer("encoder.down.0.downsample.conv", narrow, narrow, 3, 3)
    block("encoder.down.1.block.0", narrow, wide)
    block("encoder.down.1.block.1", wide, wide)
    for name in ("encoder.down.1.attn.0", "encoder.down.1.attn.1", "encoder.mid.attn_1"):
        attention(name)
    block("encoder.mid.block_1", wide, wide)
    block("encoder.mid.block_2", wide, wide)
    layer("encoder.norm_out", wide)
    layer("encoder.conv_out", CODE, wide, 3, 3)
    layer("quant_conv", CODE, CODE, 1, 1)
    shapes["vqvae_LQ.quantize.embedding.weight"] = (CODES, CODE)
    return shapes


def write_osdface(folder: Path, base: Path) -> Path:
    folder.mkdir(parents=True)
    write_lora(folder, base, mixed=True)
    change = {
        "conv1.weight": (HIDDEN, CODE, 1),
        "conv1.bias": (HIDDEN,),
        "conv2.weight": (CONDITION, HIDDEN, 1),
        "conv2.bias": (CONDITION,),
    }
    strong = {name: 4 * tensor for name, tensor in drawn(change, 5).items()}
    torch.save(strong, folder / "embedding_change_weights.pth")
    save_file(drawn(codebook_shapes(), 4), folder / "associate_2.safetensors")
    return folder


@torch.no_grad()
def merged_step(base: Path, lq: Tensor, ids: list[str], condition: Tensor) -> Tensor:
    """Restore by the published computation: W + B A, one step at t = 399 from the LQ latent."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    unet = UNet2DConditionModel.from_pretrained(base / "unet").eval()
    vae = AutoencoderKL.from_pretrained(base / "vae").eval()
    weights = dict(unet.named_parameters())
    for path, (a, b) in lora_halves(base).items():
        weights[f"{path}.weight"] += torch.einsum("or...,ri...->oi...", b, a)
    posterior = vae.encode(2 * lq - 1).latent_dist
    noise = normals([(42, name, 0, "lq posterior") for name in ids], posterior.mean.shape[1:])
    scale = vae.config.scaling_factor
    latent = scale * (posterior.mean + posterior.std * torch.from_numpy(noise).float())
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alpha_bar = float((1 - betas)[:400].prod())
    epsilon = unet(latent, 399, condition).sample
    restored = (latent - (1 - alpha_bar) ** 0.5 * epsilon) / alpha_bar**0.5
    picture: Tensor = (vae.decode(restored / scale).sample + 1) / 2
    return picture.clamp(0, 1)
