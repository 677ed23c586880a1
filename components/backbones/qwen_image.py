"""Qwen-Image as a one-step restorer (METHOD, section 4; paper, eq. 17-19)."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from components.backbones import conditional_lora, second_encoder
from components.backbones.backbone import Backbone, StepNoise, Trainable
from components.backbones.conditional_lora import BaseNumbers, Mlp
from components.backbones.fixed_time import TimePath
from components.backbones.second_encoder import SecondEncoder
from components.backbones.single_frame import expect_single_frames
from components.weights.lora import LoraParams
from components.weights.network_files import load_network

SCHEDULE_STEPS = 1000
STEP_INDEX = 750


def flow_sigmas(steps: int = SCHEDULE_STEPS, *, mu: float = 0.8, last: float = 0.02) -> Tensor:
    """Return the noise levels of Qwen-Image's schedule, falling from 1 to `last`: (steps,) float64.

    s_i = 1 - i / steps, sigma = e^mu / (e^mu + 1/s - 1), then 1 - sigma is stretched so that the
    last level is `last` (METHOD, section 4): sigma_750 = 0.436.
    """
    s = 1 - torch.arange(steps, dtype=torch.float64) / steps
    sigma = math.exp(mu) / (math.exp(mu) + 1 / s - 1)
    return 1 - (1 - sigma) * (1 - last) / (1 - sigma[-1])


class QwenImage(Backbone):
    """One rectified-flow step from a noised LQ latent, beside a cleaner copy of it as condition.

        z_t = (1 - sigma) z_L + sigma eps,   z_hat = z_t - sigma v(z_t, z_cond; t, c)
        z_cond = (1 - s) z_L + s eps, with the same eps

    z_cond's tokens follow z_t's in the image stream at the same rotary positions; the first half of
    the output is kept. With a second encoder, its z_L makes z_t, and the frozen one's makes z_cond.

    Shape: image_B3HW in [0, 1]; latent_BCHW with C and the reduction of the autoencoder's config
    (16 and 8 for the published one), the second encoder's behind it (2C); condition_BND with D the
    transformer's text width (3584).
    """

    generator_folder = "transformer"
    lora_targets = (
        *("img_in", "img_mod.1", "attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0"),
        *("img_mlp.net.0.proj", "img_mlp.net.2"),
    )
    trains = ("full", "lora", "conditional_lora")
    takes_noise = True
    color_fix = "wavelet"
    text_encoder = "qwen2_5_vl"
    discriminator = "wan"

    def __init__(self, weights: Path, *, generator: Path | None = None) -> None:
        """Load `vae/` and `transformer/`."""
        from diffusers.models.autoencoders.autoencoder_kl_qwenimage import AutoencoderKLQwenImage
        from diffusers.models.transformers.transformer_qwenimage import QwenImageTransformer2DModel

        super().__init__(weights, generator=generator)
        vae = load_network(AutoencoderKLQwenImage, weights / "vae")
        expect_single_frames(vae)
        transformer = load_network(
            QwenImageTransformer2DModel, generator or weights / "transformer"
        )
        self.hold(vae, transformer, transformer.config.joint_attention_dim)

    def hold(self, vae: Any, generator: Any, condition_width: int) -> None:
        """Take the two networks. Raises: ValueError for a transformer of another timestep."""
        if generator.config.zero_cond_t:
            raise ValueError(
                "this transformer has zero_cond_t: it modulates the condition at t = 0, as "
                "Qwen-Image-Edit; the method needs Qwen/Qwen-Image, without it"
            )
        super().hold(vae, generator, condition_width)
        generator.pos_embed = SharedPositions(generator.pos_embed)
        self.second_encoder: SecondEncoder | None = None
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
        signed_B3HW = 2 * image_B3HW - 1
        means = [self.encode_mean(self.vae, signed_B3HW)]
        if self.second_encoder is not None:
            means.append(_posterior_mean(self.vae, self.second_encoder, signed_B3HW))
        return torch.cat([(mean - self.latent_mean) / self.latent_std for mean in means], dim=1)

    def step(
        self, lq_latent_BCHW: Tensor, condition_BND: Tensor, noise: StepNoise | None
    ) -> Tensor:
        if noise is None:
            raise ValueError(
                "Qwen-Image's step needs noise: call training_noise or inference_noise"
            )
        num_latents = lq_latent_BCHW.shape[1] // self.vae.config.z_dim  # one of each encoder
        latents = lq_latent_BCHW.chunk(num_latents, dim=1)
        of_condition, start = latents[0], latents[-1]
        noisy = torch.lerp(start, noise.noise_BCHW, self.sigma)
        weight = noise.condition_sigma_B.view(-1, 1, 1, 1).to(lq_latent_BCHW)
        condition_latent = torch.lerp(of_condition, noise.noise_BCHW, weight)
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

    def generator_blocks(self) -> list[nn.Module]:
        return list(self.generator.transformer_blocks)

    def time_path(self, generator: Any) -> TimePath:
        from diffusers.models.transformers.transformer_qwenimage import QwenImageTransformerBlock

        modulation = {
            f"{name}.{stream}.1": block.get_submodule(f"{stream}.0")
            for name, block in generator.named_modules()
            if isinstance(block, QwenImageTransformerBlock)
            for stream in ("img_mod", "txt_mod")
        }
        return TimePath(
            sinusoids_1F=generator.time_text_embed.time_proj(torch.tensor([self.sigma])),
            embedder="time_text_embed.timestep_embedder",
            layers={**modulation, "norm_out.linear": generator.norm_out.silu},
        )

    def repeated_blocks(self) -> list[nn.Module]:
        return list(self.generator.transformer_blocks)

    def allow_compiling(self, size: int) -> None:
        from components.backbones.real_rotary import use_real_rotary

        side = size // self.vae.spatial_compression_ratio // 2
        use_real_rotary(self.generator, [[(1, side, side)] * 2])

    def decode(self, latent_BCHW: Tensor) -> Tensor:
        unscaled_BCHW = latent_BCHW * self.latent_std + self.latent_mean
        # In bfloat16, numbers near 2 are further apart than 8 bits of a picture.
        return (self.decode_signed(self.vae, unscaled_BCHW).float() + 1) / 2

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

    def invention(self, noise: StepNoise | None) -> Tensor:
        if noise is None:
            raise ValueError("Qwen-Image's step needs noise: call training_noise first")
        return noise.condition_sigma_B / self.sigma

    def inference_noise(self, noise_BCHW: Tensor, fidelity: float) -> StepNoise:
        if not 0 <= fidelity <= 1:
            raise ValueError(f"fidelity = {fidelity}: must be in [0, 1]")
        # Halves go up, as in the reference: Python's `round` takes half of them down.
        index = math.floor(STEP_INDEX + fidelity * (SCHEDULE_STEPS - STEP_INDEX) + 0.5)
        sigma = float(self.sigmas[index]) if index < SCHEDULE_STEPS else 0.0
        return StepNoise(noise_BCHW, noise_BCHW.new_full((noise_BCHW.shape[0],), sigma))

    def freeze_unused(self) -> None:
        """Freeze the last block's text output, which feeds nothing."""
        last = self.generator.transformer_blocks[-1]
        last.txt_mlp.requires_grad_(requires_grad=False)
        last.attn.to_add_out.requires_grad_(requires_grad=False)

    def save_trained(self, folder: Path, *arguments: Any, **options: Any) -> None:
        super().save_trained(folder, *arguments, **options)
        if self.second_encoder is not None:
            second_encoder.save(self.second_encoder, folder)

    def load_low_rank(
        self, folder: Path, trainable: Trainable, lora_params: LoraParams | None
    ) -> None:
        super().load_low_rank(folder, trainable, lora_params)
        if trainable == "conditional_lora":
            self.second_encoder = second_encoder.load(self.vae, folder)

    def change_base(self, mlp: Mlp, numbers: BaseNumbers) -> None:
        if mlp == "quick_gelu":
            conditional_lora.use_quick_gelu(self.generator)
        if numbers == "float8":
            conditional_lora.round_to_float8(self.generator)

    def noise_shape(self, latent_BCHW: Tensor) -> tuple[int, ...]:
        return (int(self.vae.config.z_dim), *latent_BCHW.shape[2:])

    @classmethod
    def lora_writer(cls) -> Any:
        from diffusers.loaders.lora_pipeline import QwenImageLoraLoaderMixin

        return QwenImageLoraLoaderMixin

    @staticmethod
    def encode_prompt(layout: Path, text: str) -> Tensor:
        from diffusers.pipelines.qwenimage.pipeline_qwenimage import QwenImagePipeline
        from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

        # Encoding a prompt does not use them.
        unused: dict[str, Any] = dict.fromkeys(["vae", "transformer", "scheduler"])
        pipeline = QwenImagePipeline(
            text_encoder=Qwen2_5_VLForConditionalGeneration.from_pretrained(
                layout / "text_encoder", use_safetensors=True, dtype="auto"
            ),
            tokenizer=Qwen2Tokenizer.from_pretrained(layout / "tokenizer"),
            **unused,
        )
        prompt_BLD: Tensor = pipeline.encode_prompt(text, device=torch.device("cpu"))[0]
        return prompt_BLD[0]

    @classmethod
    def make_vae(cls, sizes: Mapping[str, Any]) -> Any:
        from diffusers.models.autoencoders.autoencoder_kl_qwenimage import AutoencoderKLQwenImage

        channels = sizes["z_dim"]
        unscaled = {"latents_mean": [0.0] * channels, "latents_std": [1.0] * channels}
        vae = AutoencoderKLQwenImage(**sizes, **unscaled)
        expect_single_frames(vae)
        return vae

    @staticmethod
    def encode_mean(vae: Any, signed_B3HW: Tensor) -> Tensor:
        return _posterior_mean(vae, vae.encoder, signed_B3HW)

    @staticmethod
    def decode_signed(vae: Any, latent_BCHW: Tensor) -> Tensor:
        image_B31HW: Tensor = vae.decoder(vae.post_quant_conv(latent_BCHW.unsqueeze(2)))
        return image_B31HW.squeeze(2)

    @staticmethod
    def scale_latents(vae: Any, latent_BCHW: Tensor) -> None:
        vae.register_to_config(
            latents_mean=latent_BCHW.mean(dim=(0, 2, 3)).tolist(),
            latents_std=latent_BCHW.std(dim=(0, 2, 3)).tolist(),
        )

    @classmethod
    def make_generator(cls, sizes: Mapping[str, Any]) -> tuple[Any, int]:
        from diffusers.models.transformers.transformer_qwenimage import QwenImageTransformer2DModel

        transformer = QwenImageTransformer2DModel(**sizes)
        nn.init.zeros_(transformer.proj_out.weight)  # as flow models start: no velocity at first
        nn.init.zeros_(transformer.proj_out.bias)
        return transformer, int(transformer.config.joint_attention_dim)


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


def _posterior_mean(vae: Any, encoder: nn.Module, signed_B3HW: Tensor) -> Tensor:
    moments_BC1HW: Tensor = vae.quant_conv(encoder(signed_B3HW.unsqueeze(2)))
    return moments_BC1HW.chunk(2, dim=1)[0].squeeze(2)


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
