"""Stable Diffusion 2.1-base as a one-step restorer (METHOD, section 3; paper, eq. 8)."""

from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor, nn

from components.backbones import lora
from components.backbones.protocol import LoraParams, StepNoise, Trainable

TIMESTEP = 399  # fixed, of 1000; alpha_bar = 0.426 with SD's schedule

LORA_TARGETS = (
    *("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"),
    *("conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv"),
    "time_emb_proj",
)


class StableDiffusionBackbone(nn.Module):
    """One ε-prediction step from the LQ latent itself, no noise added.

        z_hat = (z_L - sqrt(1 - alpha_bar) * eps(z_L; t, c)) / sqrt(alpha_bar)

    Shape: image_B3HW in [0, 1]; latent_BCHW with C and the reduction of the autoencoder's config
    (4 and 8 for the published one); condition_BND with D the UNet's cross-attention width (1024).
    """

    name = "sd21"
    takes_noise = False

    def __init__(self, weights: Path, *, generator: Path | None = None) -> None:
        """Load `vae/`, `unet/` and `scheduler/` of a diffusers folder.

        A fully trained UNet is given as `generator`, a folder of its own. Raises: ValueError if the
        schedule is not ε-predicting (SD 2.1 of 768 pixels predicts v and does not fit).
        """
        super().__init__()
        self.vae = AutoencoderKL.from_pretrained(weights / "vae", use_safetensors=True).eval()
        unet_folder = generator or weights / "unet"
        self.generator = UNet2DConditionModel.from_pretrained(unet_folder, use_safetensors=True)
        # Else the folder is saved with it, and is another one on another machine.
        self.generator.register_to_config(_name_or_path="")
        self.vae.requires_grad_(requires_grad=False)
        self.generator.requires_grad_(requires_grad=False)
        self.condition_width: int = self.generator.config.cross_attention_dim
        schedule = DDPMScheduler.from_pretrained(weights / "scheduler")
        if schedule.config.prediction_type != "epsilon":
            raise ValueError(
                f"{weights / 'scheduler'} predicts {schedule.config.prediction_type!r}: the step "
                "needs an ε-predicting model, SD 2.1-base (512 pixels)"
            )
        self.alpha_bar = float(schedule.alphas_cumprod[TIMESTEP])

    @torch.no_grad()
    def encode(self, image_B3HW: Tensor) -> Tensor:
        posterior = self.vae.encode(2 * image_B3HW - 1).latent_dist
        latent_BCHW: Tensor = self.vae.config.scaling_factor * posterior.mean
        return latent_BCHW

    def step(
        self, lq_latent_BCHW: Tensor, condition_BND: Tensor, noise: StepNoise | None
    ) -> Tensor:
        del noise  # the degraded latent is the noisy input; the method adds none
        timestep = torch.tensor(TIMESTEP, device=lq_latent_BCHW.device)
        epsilon: Tensor = self.generator(lq_latent_BCHW, timestep, condition_BND).sample
        signal, sigma = self.alpha_bar**0.5, (1 - self.alpha_bar) ** 0.5
        restored_BCHW: Tensor = (lq_latent_BCHW - sigma * epsilon) / signal
        return restored_BCHW

    def decode(self, latent_BCHW: Tensor) -> Tensor:
        image_B3HW: Tensor = self.vae.decode(latent_BCHW / self.vae.config.scaling_factor).sample
        return (image_B3HW + 1) / 2

    def training_noise(
        self, lq_latent_BCHW: Tensor, generator: torch.Generator, *, clean_condition: float
    ) -> None:
        del lq_latent_BCHW, generator, clean_condition

    def inference_noise(self, noise_BCHW: Tensor, fidelity: float) -> None:
        del noise_BCHW, fidelity

    def train_only(self, trainable: Trainable, lora_params: LoraParams | None) -> None:
        if trainable == "lora":
            if lora_params is None:
                raise ValueError(
                    "trainable is 'lora' but the lora section (rank, alpha) is missing"
                )
            lora.add(self.generator, lora_params, LORA_TARGETS)
        else:
            self.generator.requires_grad_(requires_grad=True)

    def save_trained(self, folder: Path, trainable: Trainable) -> None:
        if trainable == "lora":
            lora.save(self.generator, folder, "unet")
        else:
            self.generator.save_pretrained(folder / "unet", safe_serialization=True)

    def load_lora(self, folder: Path) -> None:
        lora.load(self.generator, folder, "unet")
