"""Small networks of the published classes for the `tiny` profile, where no pretrained weights are.

The autoencoders are trained for real on the train faces; generators and DINOv3 come from fixed
seeds. All are written as folders in the published layout, so nothing behind this file can tell.
"""

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import PositiveFloat, PositiveInt
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from components.backbones.backbone import Backbone
from components.backbones.catalogue import FAMILIES
from components.discriminators.catalogue import discriminator_named
from components.discriminators.discriminator import Discriminator
from components.params import Params
from components.weights.prompt import PROMPT_FILE

log = logging.getLogger(__name__)


class AutoencoderTraining(Params):
    """How a stand-in autoencoder is trained: pixel MSE through the posterior mean, one cycle."""

    steps: PositiveInt
    batch_size: PositiveInt
    crop: PositiveInt  # pixels; a multiple of the autoencoder's reduction
    learning_rate: PositiveFloat


class PromptParams(Params):
    """The fixed text condition of a stand-in: `tokens` random vectors of the condition's width."""

    tokens: PositiveInt


class StandInParams(Params):
    """One network's stand-in: sizes are the keyword arguments of the library's own class.

    `vae` and `generator` for a backbone, `discriminator` for its opponent, `encoder` for DINOv3.
    """

    seed: int
    vae: Mapping[str, Any] | None = None
    autoencoder: AutoencoderTraining | None = None
    generator: Mapping[str, Any] | None = None
    prompt: PromptParams | None = None
    discriminator: Mapping[str, Any] | None = None
    encoder: Mapping[str, Any] | None = None


def train_autoencoder(
    vae: nn.Module,
    reconstruct: Callable[[Tensor], Tensor],
    faces_NHW3: np.ndarray,
    params: AutoencoderTraining,
    *,
    seed: int,
) -> None:
    """Train `vae` in place, from new weights, so that `reconstruct` repeats crops of faces.

    Shape: faces_NHW3 uint8; `reconstruct` maps (B, 3, crop, crop) in [-1, 1] to the same.
    """
    draw = np.random.default_rng(seed)
    data = _signed(faces_NHW3)
    _begin_linear(vae)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=params.learning_rate, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, params.learning_rate, total_steps=params.steps, pct_start=0.1
    )
    vae.train()
    started = time.monotonic()
    for step in range(params.steps):
        crops_B3HW = _random_crops(data, params, draw)
        loss = F.mse_loss(reconstruct(crops_B3HW), crops_B3HW)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 200 == 0:
            psnr = -10 * np.log10(loss.item() / 4)
            log.info("autoencoder: step %d of %d, %.1f dB", step, params.steps, psnr)
    log.info("autoencoder: %d steps in %.0f s", params.steps, time.monotonic() - started)
    vae.eval()


def _begin_linear(vae: nn.Module) -> None:
    """Let an autoencoder begin with residual blocks that pass, behind layers that keep variance.

    He et al., "Delving Deep into Rectifiers" (2015), with gain 1, and Goyal et al., "Accurate,
    Large Minibatch SGD" (2017), which begins a residual branch at zero. With the libraries' own
    initial weights, faces stay grey along the colour in which they vary least. A causal 3-D layer
    keeps a third of the variance, since one of its three frames meets data.
    """
    for name, module in vae.named_modules():
        if not isinstance(module, (nn.Conv2d, nn.Conv3d)):
            continue
        if name.endswith(".conv2"):  # the last layer of both libraries' residual blocks
            for parameter in module.parameters():
                nn.init.zeros_(parameter)
        else:
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")


def _random_crops(data: Tensor, params: AutoencoderTraining, draw: np.random.Generator) -> Tensor:
    size, crop = data.shape[-1], params.crop
    rows = draw.integers(len(data), size=params.batch_size)
    tops, lefts = draw.integers(size - crop + 1, size=(2, params.batch_size))
    crops = [
        data[row, :, top : top + crop, left : left + crop]
        for row, top, left in zip(rows, tops, lefts, strict=True)
    ]
    batch = torch.stack(crops)
    return batch.flip(-1) if draw.random() < 0.5 else batch


def make(
    name: str, params: StandInParams, faces: Mapping[str, np.ndarray], folder: Path
) -> dict[str, Any]:
    """Make a network's stand-in in `folder`; return what is worth knowing.

    Args:
        name: of the network: a backbone, BACKBONE-discriminator or dinov3.
        params: sizes, seed and training.
        faces: `train` and `test`, uint8 (N, H, W, 3); needed where an autoencoder is trained.
        folder: exists; gets the published layout.

    Raises: ValueError naming a section of `params` that this network needs, or an unknown name.
    """
    torch.manual_seed(params.seed)
    if name == "dinov3":
        return _make_encoder(_given(params.encoder, name, "encoder"), folder)
    if (discriminator := discriminator_named(name)) is not None:
        return _make_discriminator(discriminator, name, params, folder)
    if name not in FAMILIES:
        raise ValueError(
            f"no stand-in of {name!r}: there are {', '.join(FAMILIES)}, each with its "
            "-discriminator, and dinov3"
        )
    return _make_backbone(FAMILIES[name], name, params, faces, folder)


def _given(value: Any, name: str, section: str) -> Any:
    if value is None:
        raise ValueError(f"weights.{name}.stand_in.{section} is missing: the stand-in needs it")
    return value


def _make_encoder(sizes: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    from transformers.models.dinov3_vit.configuration_dinov3_vit import DINOv3ViTConfig
    from transformers.models.dinov3_vit.modeling_dinov3_vit import DINOv3ViTModel

    network = DINOv3ViTModel(DINOv3ViTConfig(**sizes))
    network.save_pretrained(folder)
    return {"parameters": _count(network)}


def _make_discriminator(
    discriminator: type[Discriminator], name: str, params: StandInParams, folder: Path
) -> dict[str, Any]:
    network = discriminator.make_network(_given(params.discriminator, name, "discriminator"))
    network.save_pretrained(folder / discriminator.folder)
    if params.prompt is not None:
        prompt = discriminator.draw_prompt(network, params.prompt.tokens)
        save_file(prompt, folder / PROMPT_FILE)
    return {"parameters": _count(network)}


def _make_backbone(
    family: type[Backbone],
    name: str,
    params: StandInParams,
    faces: Mapping[str, np.ndarray],
    folder: Path,
) -> dict[str, Any]:
    training = _given(params.autoencoder, name, "autoencoder")
    vae_sizes = _given(params.vae, name, "vae")
    generator_sizes = _given(params.generator, name, "generator")
    prompt = _given(params.prompt, name, "prompt")
    # The order decides the random numbers that each part gets.
    vae = family.make_vae(vae_sizes)
    psnr, latents = _train_and_measure(family, vae, faces, training, params.seed)
    family.scale_latents(vae, latents)
    vae.save_pretrained(folder / "vae")
    generator, width = family.make_generator(generator_sizes)
    generator.save_pretrained(folder / family.generator_folder)
    family.save_schedule(folder)
    prompt_LC = torch.randn(prompt.tokens, width)
    save_file({"prompt": prompt_LC}, folder / PROMPT_FILE)
    return {"reconstruction_psnr": psnr, "parameters": _count(vae) + _count(generator)}


def _train_and_measure(
    family: type[Backbone],
    vae: nn.Module,
    faces: Mapping[str, np.ndarray],
    training: AutoencoderTraining,
    seed: int,
) -> tuple[float, Tensor]:
    """Train; return the test reconstructions' mean PSNR in dB, and the train faces' latents."""
    if not len(faces["train"]) or not len(faces["test"]):
        raise ValueError("a stand-in autoencoder needs train and test faces: give `faces`")

    def reconstruct(image_B3HW: Tensor) -> Tensor:
        return family.decode_signed(vae, family.encode_mean(vae, image_B3HW))

    train_autoencoder(vae, reconstruct, faces["train"], training, seed=seed)
    train, test = _signed(faces["train"]), _signed(faces["test"])
    with torch.no_grad():
        latents = torch.cat([family.encode_mean(vae, part) for part in torch.split(train, 16)])
        restored = torch.cat([reconstruct(part) for part in torch.split(test, 16)]).clamp(-1, 1)
    error_B = ((restored - test) / 2).square().mean(dim=(1, 2, 3))
    return float(-10 * torch.log10(error_B).mean()), latents


def _signed(faces_NHW3: np.ndarray) -> Tensor:
    return torch.from_numpy(faces_NHW3).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def _count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
