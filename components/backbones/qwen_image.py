"""Qwen-Image as a one-step restorer (METHOD, section 4; paper, eq. 17-19)."""

import math
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl_qwenimage import (
    AutoencoderKLQwenImage,
    QwenImageCausalConv3d,
)
from diffusers.models.transformers.transformer_qwenimage import QwenImageTransformer2DModel
from torch import Tensor, nn
from torch.nn import functional as F

from components.backbones import lora
from components.backbones.protocol import LoraParams, StepNoise, Trainable

SCHEDULE_STEPS = 1000
STEP_INDEX = 750

LORA_TARGETS = (
    *("img_in", "img_mod.1", "attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0"),
    *("img_mlp.net.0.proj", "img_mlp.net.2"),
)


def flow_sigmas(steps: int = SCHEDULE_STEPS, *, mu: float = 0.8, last: float = 0.02) -> Tensor:
    """Return the noise levels of Qwen-Image's schedule, falling from 1 to `last`: (steps,) float64.

    s_i = 1 - i / steps, sigma = e^mu / (e^mu + 1/s - 1), then 1 - sigma is stretched so that the
    last level is `last` (METHOD, section 4): sigma_750 = 0.436.
    """
    s = 1 - torch.arange(steps, dtype=torch.float64) / steps
    sigma = math.exp(mu) / (math.exp(mu) + 1 / s - 1)
    return 1 - (1 - sigma) * (1 - last) / (1 - sigma[-1])


class QwenImageBackbone(nn.Module):
    """One rectified-flow step from a noised LQ latent, beside a cleaner copy of it as condition.

        z_t = (1 - sigma) z_L + sigma eps,   z_hat = z_t - sigma v(z_t, z_cond; t, c)
        z_cond = (1 - s) z_L + s eps, with the same eps

    z_cond's tokens follow z_t's in the image stream at the same rotary positions; the first half of
    the output is kept.

    Shape: image_B3HW in [0, 1]; latent_BCHW with C and the reduction of the autoencoder's config
    (16 and 8 for the published one); condition_BND with D the transformer's text width (3584).
    """

    name = "qwen"
    takes_noise = True

    def __init__(self, weights: Path, *, generator: Path | None = None) -> None:
        """Load `vae/` and `transformer/`, or a transformer trained in full from `generator`."""
        super().__init__()
        self.vae = AutoencoderKLQwenImage.from_pretrained(
            weights / "vae", use_safetensors=True
        ).eval()
        use_single_frame_convolutions(self.vae)
        self.generator = QwenImageTransformer2DModel.from_pretrained(
            generator or weights / "transformer", use_safetensors=True
        )
        # Else the folder is saved with it, and is another one on another machine.
        self.generator.register_to_config(_name_or_path="")
        self.generator.pos_embed = SharedPositions(self.generator.pos_embed)
        self.vae.requires_grad_(requires_grad=False)
        self.generator.requires_grad_(requires_grad=False)
        self.condition_width: int = self.generator.config.joint_attention_dim
        self.sigmas = flow_sigmas()
        self.sigma = float(self.sigmas[STEP_INDEX])
        shape = (1, self.vae.config.z_dim, 1, 1)
        mean, std = self.vae.config.latents_mean, self.vae.config.latents_std
        self.register_buffer("latent_mean", torch.tensor(mean).view(shape), persistent=False)
        self.register_buffer("latent_std", torch.tensor(std).view(shape), persistent=False)

    latent_mean: Tensor
    latent_std: Tensor

    @torch.no_grad()
    def encode(self, image_B3HW: Tensor) -> Tensor:
        frames = (2 * image_B3HW - 1).unsqueeze(2)
        mean_BCHW = self.vae.quant_conv(self.vae.encoder(frames)).chunk(2, dim=1)[0].squeeze(2)
        latent_BCHW: Tensor = (mean_BCHW - self.latent_mean) / self.latent_std
        return latent_BCHW

    def step(
        self, lq_latent_BCHW: Tensor, condition_BND: Tensor, noise: StepNoise | None
    ) -> Tensor:
        if noise is None:
            raise ValueError(
                "Qwen-Image's step needs noise: call training_noise or inference_noise"
            )
        noisy = torch.lerp(lq_latent_BCHW, noise.noise_BCHW, self.sigma)
        weight = noise.condition_sigma_B.view(-1, 1, 1, 1).to(lq_latent_BCHW)
        condition_latent = torch.lerp(lq_latent_BCHW, noise.noise_BCHW, weight)
        velocity = self._velocity(noisy, condition_latent, condition_BND)
        return noisy - self.sigma * velocity

    def _velocity(self, noisy: Tensor, condition_latent: Tensor, condition_BND: Tensor) -> Tensor:
        batch, _, height, width = noisy.shape
        frame = (1, height // 2, width // 2)
        tokens = pack(noisy)
        output: Tensor = self.generator(
            hidden_states=torch.cat([tokens, pack(condition_latent)], dim=1),
            encoder_hidden_states=condition_BND,
            timestep=noisy.new_full((batch,), self.sigma),
            img_shapes=[[frame, frame]] * batch,
        ).sample
        return unpack(output[:, : tokens.shape[1]], height, width)

    def decode(self, latent_BCHW: Tensor) -> Tensor:
        latent = (latent_BCHW * self.latent_std + self.latent_mean).unsqueeze(2)
        image_B3HW: Tensor = self.vae.decoder(self.vae.post_quant_conv(latent)).squeeze(2)
        return (image_B3HW + 1) / 2

    def training_noise(
        self, lq_latent_BCHW: Tensor, generator: torch.Generator, *, clean_condition: float
    ) -> StepNoise:
        batch, device = lq_latent_BCHW.shape[0], lq_latent_BCHW.device
        noise = torch.randn(lq_latent_BCHW.shape, generator=generator, device=generator.device)
        index = torch.randint(
            STEP_INDEX, SCHEDULE_STEPS, (batch,), generator=generator, device=generator.device
        )
        clean = torch.rand(batch, generator=generator, device=generator.device)
        sigma_B = self.sigmas.to(index.device)[index].float()
        sigma_B = torch.where(clean < clean_condition, 0.0, sigma_B)  # p of eq. 19
        return StepNoise(noise.to(device), sigma_B.to(device))

    def inference_noise(self, noise_BCHW: Tensor, fidelity: float) -> StepNoise:
        if not 0 <= fidelity <= 1:
            raise ValueError(f"fidelity = {fidelity}: must be in [0, 1]")
        index = STEP_INDEX + round(fidelity * (SCHEDULE_STEPS - STEP_INDEX))
        sigma = float(self.sigmas[index]) if index < SCHEDULE_STEPS else 0.0
        return StepNoise(noise_BCHW, noise_BCHW.new_full((noise_BCHW.shape[0],), sigma))

    def train_only(self, trainable: Trainable, lora_params: LoraParams | None) -> None:
        if trainable == "lora":
            if lora_params is None:
                raise ValueError(
                    "trainable is 'lora' but the lora section (rank, alpha) is missing"
                )
            lora.add(self.generator, lora_params, LORA_TARGETS)
            return
        self.generator.requires_grad_(requires_grad=True)
        # The last block's text output feeds nothing: without gradient, DDP would wait for it.
        last = self.generator.transformer_blocks[-1]
        last.txt_mlp.requires_grad_(requires_grad=False)
        last.attn.to_add_out.requires_grad_(requires_grad=False)

    def save_trained(self, folder: Path, trainable: Trainable) -> None:
        if trainable == "lora":
            lora.save(self.generator, folder, "transformer")
        else:
            self.generator.save_pretrained(folder / "transformer", safe_serialization=True)

    def load_lora(self, folder: Path) -> None:
        lora.load(self.generator, folder, "transformer")


class SharedPositions(nn.Module):
    """Rotary positions for two images that lie on each other: the second repeats the first's.

    diffusers gives a second image a frame index of its own; the reference repeats the positions.
    """

    def __init__(self, positions: nn.Module) -> None:
        super().__init__()
        self.positions = positions

    def forward(
        self, img_shapes: list[list[tuple[int, int, int]]], **options: object
    ) -> tuple[Tensor, Tensor]:
        first = [shapes[:1] for shapes in img_shapes]
        image, text = self.positions(first, **options)
        return torch.cat([image, image]), text


class SingleFrameConv(QwenImageCausalConv3d):
    """A causal 3-D convolution of one frame, computed as the 2-D convolution that it is.

    The frames before the first are zeros, so only the last temporal slice of the weight meets data.
    """

    def forward(self, x: Tensor, cache_x: Tensor | None = None) -> Tensor:
        if x.shape[2] != 1 or cache_x is not None:
            raise ValueError(f"a picture has one frame; got {x.shape[2]}")
        padded = F.pad(x.squeeze(2), [int(side) for side in self._padding[:4]])
        flat = F.conv2d(padded, self.weight[:, :, -1], self.bias, stride=self.stride[1:])
        return flat.unsqueeze(2)


def use_single_frame_convolutions(vae: nn.Module) -> None:
    """Let every causal convolution of a Wan/Qwen autoencoder treat its input as one frame.

    Parameters keep their names and shapes, so the published layout still loads and saves.
    """
    for module in vae.modules():
        if type(module) is QwenImageCausalConv3d:
            module.__class__ = SingleFrameConv


def pack(latent_BCHW: Tensor) -> Tensor:
    """Fold 2 × 2 latent pixels into one token: (B, C, H, W) -> (B, H/2 · W/2, 4C)."""
    batch, channels, height, width = latent_BCHW.shape
    split = latent_BCHW.view(batch, channels, height // 2, 2, width // 2, 2)
    return split.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * 4)


def unpack(tokens_BNC: Tensor, height: int, width: int) -> Tensor:
    """Undo `pack` for a latent of `height` × `width`."""
    batch, _, channels = tokens_BNC.shape
    split = tokens_BNC.view(batch, height // 2, width // 2, channels // 4, 2, 2)
    return split.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels // 4, height, width)
