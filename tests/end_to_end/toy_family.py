"""A third family of generators, all of it: what another one would have to say of itself.

A tiny autoencoder and a few convolutions, shifted by the condition, that predict a change of the
latent. The test copies this file to `components/backbones/toy.py`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny, ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from components.backbones.backbone import Backbone, StepNoise


class ToyGenerator(ModelMixin, ConfigMixin):
    """Predict the change of a latent; starts by predicting none."""

    @register_to_config
    def __init__(self, channels: int = 4, width: int = 16, condition_width: int = 12) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(channels, width, 3, padding=1)
        self.shift = nn.Linear(condition_width, width)
        self.conv_out = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, latent_BCHW: Tensor, condition_BND: Tensor) -> Tensor:
        shift_BC = self.shift(condition_BND.mean(dim=1))
        hidden = (self.conv_in(latent_BCHW) + shift_BC[..., None, None]).relu()
        change: Tensor = self.conv_out(hidden)
        return change


class Toy(Backbone):
    generator_folder = "unet"
    lora_targets = ("conv_in", "conv_out")
    takes_noise = False
    color_fix = "none"
    text_encoder = "none"
    discriminator = "sdxl"

    def __init__(self, weights: Path, *, generator: Path | None = None) -> None:
        super().__init__(weights, generator=generator)
        network = ToyGenerator.from_pretrained(generator or weights / "unet", use_safetensors=True)
        vae = AutoencoderTiny.from_pretrained(weights / "vae", use_safetensors=True)
        self.hold(vae, network, network.config.condition_width)

    @torch.no_grad()
    def encode(self, image_B3HW: Tensor) -> Tensor:
        mean_BCHW = self.encode_mean(self.vae, 2 * image_B3HW - 1)
        scaled_BCHW: Tensor = self.vae.config.scaling_factor * mean_BCHW
        return scaled_BCHW

    def step(
        self, lq_latent_BCHW: Tensor, condition_BND: Tensor, noise: StepNoise | None
    ) -> Tensor:
        del noise
        restored_BCHW: Tensor = lq_latent_BCHW + self.generator(lq_latent_BCHW, condition_BND)
        return restored_BCHW

    def generator_blocks(self) -> list[nn.Module]:
        return [self.generator.conv_in, self.generator.shift, self.generator.conv_out]

    def decode(self, latent_BCHW: Tensor) -> Tensor:
        return (self.decode_signed(self.vae, latent_BCHW / self.vae.config.scaling_factor) + 1) / 2

    @classmethod
    def lora_writer(cls) -> Any:
        from diffusers.loaders.lora_pipeline import StableDiffusionLoraLoaderMixin

        return StableDiffusionLoraLoaderMixin

    @staticmethod
    def encode_prompt(layout: Path, text: str) -> Tensor:
        raise ValueError(f"{layout} has no text encoder for {text!r}")

    @classmethod
    def make_vae(cls, sizes: Mapping[str, Any]) -> Any:
        return AutoencoderTiny(**sizes)

    @staticmethod
    def encode_mean(vae: Any, signed_B3HW: Tensor) -> Tensor:
        latent_BCHW: Tensor = vae.encode(signed_B3HW).latents
        return latent_BCHW

    @staticmethod
    def decode_signed(vae: Any, latent_BCHW: Tensor) -> Tensor:
        image_B3HW: Tensor = vae.decode(latent_BCHW).sample
        return image_B3HW

    @staticmethod
    def scale_latents(vae: Any, latent_BCHW: Tensor) -> None:
        vae.register_to_config(scaling_factor=float(1 / latent_BCHW.std()))

    @classmethod
    def make_generator(cls, sizes: Mapping[str, Any]) -> tuple[Any, int]:
        network = ToyGenerator(**sizes)
        nn.init.zeros_(network.conv_out.weight)
        nn.init.zeros_(network.conv_out.bias)
        return network, int(network.config.condition_width)
