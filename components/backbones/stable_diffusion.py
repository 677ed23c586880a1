"""Stable Diffusion 2.1-base as a one-step restorer (METHOD, section 3; paper, eq. 8)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from components.backbones.backbone import Backbone, StepNoise
from components.backbones.fixed_time import TimePath
from components.backbones.tiny_decoder import PublishedDecoder, TinyDecoder
from components.weights.network_files import load_network

TIMESTEP = 399  # fixed, of 1000; alpha_bar = 0.426 with SD's schedule
# Its tiny decoder. That of SDXL has the same layout and decodes other latents.
TAESD = PublishedDecoder(
    "madebyollin/taesd",
    megabytes=9.8,
    sizes={
        "latent_channels": 4,
        "encoder_block_out_channels": [64] * 4,
        "decoder_block_out_channels": [64] * 4,
        "num_encoder_blocks": [1, 3, 3, 3],
        "num_decoder_blocks": [3, 3, 3, 1],
    },
)
# The published autoencoder's names of its attention's layers.
OLDER_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


class StableDiffusion(Backbone):
    """One ε-prediction step from the LQ latent itself, no noise added.

        z_hat = (z_L - sqrt(1 - alpha_bar) * eps(z_L; t, c)) / sqrt(alpha_bar)

    Shape: image_B3HW in [0, 1]; latent_BCHW with C and the reduction of the autoencoder's config
    (4 and 8 for the published one); condition_BND with D the UNet's cross-attention width (1024).
    """

    generator_folder = "unet"
    lora_targets = (
        *("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"),
        *("conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv"),
        "time_emb_proj",
    )
    takes_noise = False
    samples_posterior = True
    color_fix = "none"
    text_encoder = "clip_text_model"
    discriminator = "sdxl"

    def __init__(self, weights: Path, *, generator: Path | None = None) -> None:
        """Load `vae/`, `unet/` and `scheduler/`.

        Raises: ValueError if the schedule is not ε-predicting (SD 2.1 of 768 pixels predicts v).
        """
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
        from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

        super().__init__(weights, generator=generator)
        vae = load_network(AutoencoderKL, weights / "vae", spellings=OLDER_ATTENTION)
        unet = load_network(UNet2DConditionModel, generator or weights / "unet")
        self.hold(vae, unet, unet.config.cross_attention_dim)
        schedule = DDPMScheduler.from_pretrained(weights / "scheduler")
        if schedule.config.prediction_type != "epsilon":
            raise ValueError(
                f"{weights / 'scheduler'} predicts {schedule.config.prediction_type!r}: the step "
                "needs an ε-predicting model, SD 2.1-base (512 pixels)"
            )
        self.alpha_bar = float(schedule.alphas_cumprod[TIMESTEP])

    def hold(self, vae: Any, generator: Any, condition_width: int) -> None:
        super().hold(vae, generator, condition_width)
        self.alpha_bar = float(self.schedule().alphas_cumprod[TIMESTEP])

    @torch.no_grad()
    def encode(self, image_B3HW: Tensor) -> Tensor:
        latent_BCHW: Tensor = self.vae.config.scaling_factor * self.encode_mean(
            self.vae, 2 * image_B3HW - 1
        )
        return latent_BCHW

    @torch.no_grad()
    def moments(self, image_B3HW: Tensor) -> Tensor:
        posterior = self.vae.encode(2 * image_B3HW - 1).latent_dist
        moments_BCHW = torch.cat([posterior.mean, posterior.std], dim=1)
        scaled_BCHW: Tensor = self.vae.config.scaling_factor * moments_BCHW
        return scaled_BCHW

    def step(
        self, lq_latent_BCHW: Tensor, condition_BND: Tensor, noise: StepNoise | None
    ) -> Tensor:
        del noise  # the degraded latent is the noisy input; the method adds none
        # Filled on its device: `torch.tensor` would copy it there in each step.
        timestep = lq_latent_BCHW.new_full((), TIMESTEP, dtype=torch.long)
        epsilon: Tensor = self.generator(lq_latent_BCHW, timestep, condition_BND).sample
        signal, sigma = self.alpha_bar**0.5, (1 - self.alpha_bar) ** 0.5
        restored_BCHW: Tensor = (lq_latent_BCHW - sigma * epsilon) / signal
        return restored_BCHW

    def generator_blocks(self) -> list[nn.Module]:
        unet = self.generator
        return [*unet.down_blocks, unet.mid_block, *unet.up_blocks]

    def time_path(self, generator: Any) -> TimePath:
        from diffusers.models.resnet import ResnetBlock2D

        return TimePath(
            sinusoids_1F=generator.time_proj(torch.tensor([TIMESTEP])),
            embedder="time_embedding",
            layers={
                f"{name}.time_emb_proj": block.nonlinearity
                for name, block in generator.named_modules()
                if isinstance(block, ResnetBlock2D)
            },
        )

    def decode(self, latent_BCHW: Tensor) -> Tensor:
        unscaled_BCHW = latent_BCHW / self.vae.config.scaling_factor
        # In bfloat16, numbers near 2 are further apart than 8 bits of a picture.
        return (self.decode_signed(self.vae, unscaled_BCHW).float() + 1) / 2

    def load_tiny_decoder(self, folder: Path) -> TinyDecoder:
        config = self.vae.config
        reduction = 2 ** (len(config.block_out_channels) - 1)
        return TinyDecoder.load(folder, TAESD, channels=config.latent_channels, reduction=reduction)

    @classmethod
    def lora_writer(cls) -> Any:
        from diffusers.loaders.lora_pipeline import StableDiffusionLoraLoaderMixin

        return StableDiffusionLoraLoaderMixin

    @staticmethod
    def encode_prompt(layout: Path, text: str) -> Tensor:
        from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import (
            StableDiffusionPipeline,
        )
        from transformers import CLIPTextModel, CLIPTokenizer

        # Encoding a prompt does not use them.
        unused: dict[str, Any] = dict.fromkeys(
            ["vae", "unet", "scheduler", "safety_checker", "feature_extractor"]
        )
        pipeline = StableDiffusionPipeline(
            text_encoder=CLIPTextModel.from_pretrained(
                layout / "text_encoder", use_safetensors=True
            ),
            tokenizer=CLIPTokenizer.from_pretrained(layout / "tokenizer"),
            requires_safety_checker=False,
            **unused,
        )
        prompt_BLD: Tensor = pipeline.encode_prompt(
            text, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
        )[0]
        return prompt_BLD[0]

    @classmethod
    def make_vae(cls, sizes: Mapping[str, Any]) -> Any:
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

        return AutoencoderKL(**sizes)

    @staticmethod
    def encode_mean(vae: Any, signed_B3HW: Tensor) -> Tensor:
        mean_BCHW: Tensor = vae.encode(signed_B3HW).latent_dist.mean
        return mean_BCHW

    @staticmethod
    def decode_signed(vae: Any, latent_BCHW: Tensor) -> Tensor:
        image_B3HW: Tensor = vae.decode(latent_BCHW).sample
        return image_B3HW

    @staticmethod
    def scale_latents(vae: Any, latent_BCHW: Tensor) -> None:
        vae.register_to_config(scaling_factor=float(1 / latent_BCHW.std()))

    @classmethod
    def make_generator(cls, sizes: Mapping[str, Any]) -> tuple[Any, int]:
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

        unet = UNet2DConditionModel(**sizes)
        nn.init.zeros_(unet.conv_out.weight)  # as training from scratch starts: predicts nothing
        nn.init.zeros_(unet.conv_out.bias)
        return unet, int(unet.config.cross_attention_dim)

    @staticmethod
    def schedule() -> Any:
        """Make the published schedule."""
        from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

        return DDPMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            prediction_type="epsilon",
        )

    @classmethod
    def save_schedule(cls, folder: Path) -> None:
        cls.schedule().save_pretrained(folder / "scheduler")
