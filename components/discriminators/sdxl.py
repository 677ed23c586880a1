"""SDXL's down and middle blocks with a patch head: the opponent of SD 2.1 (METHOD, section 3)."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from components.backbones.stable_diffusion import StableDiffusion
from components.discriminators.discriminator import (
    Discriminator,
    DiscriminatorOptions,
    Draw,
    read_prompt,
)
from components.weights import lora as low_rank
from components.weights.network_files import load_network

FACTOR = 8  # pixels of a latent's pixel, for SDXL's own description of the picture's size
NUM_TIMESTEPS = 1000
DECODING_HALF = ("up_blocks", "conv_norm_out", "conv_out")


class SdxlDiscriminator(Discriminator):
    """The encoding half of an SDXL UNet at timestep 0, then two strided convolutions to one logit.

    With `tokens`, SDXL's text is replaced by the generator's condition: each token through a Linear
    to the width of its cross-attention, their mean through another to `text_embeds`. (How the paper
    connects them is not published.) With `prompt`, it is a constant text that SDXL's two encoders
    have embedded, as in the reference. 64 × 64 latents have 4 × 4 patches.
    """

    folder = "unet"
    # The generator's, but for what the encoding half has not.
    lora_targets = tuple(
        target for target in StableDiffusion.lora_targets if not target.startswith("upsamplers")
    )

    def __init__(self, weights: Path, condition_width: int, options: DiscriminatorOptions) -> None:
        super().__init__(weights, condition_width, options)
        if options.condition == "prompt":
            self.take_prompt(read_prompt(weights))
        self.hold(load_encoding_half(weights / self.folder), condition_width, options)

    def hold(self, network: Any, condition_width: int, options: DiscriminatorOptions) -> None:
        _keep_encoding_half(network)
        self.network = network
        self.noisy_input = options.noisy_input
        if options.lora is not None:
            low_rank.add(self.network, options.lora, self.lora_targets)
        self.condition = options.condition
        if options.condition == "tokens":
            text_width = _text_width(network)
            self.to_tokens = nn.Linear(condition_width, network.config.cross_attention_dim)
            self.to_text = nn.Linear(condition_width, text_width)
        width = network.config.block_out_channels[-1]
        self.head = nn.Sequential(
            nn.Conv2d(width, width, 4, stride=2, padding=1),
            nn.GroupNorm(32, width),
            nn.SiLU(),
            nn.Conv2d(width, 1, 4, stride=2, padding=1),
        )
        # alpha_bar of SD's schedule, 0.00085 to 0.012, scaled linear.
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, NUM_TIMESTEPS, dtype=torch.float64) ** 2
        self.register_buffer("alpha_bar", (1 - betas).cumprod(0).float(), persistent=False)

    alpha_bar: Tensor
    prompt: Tensor  # (L, D), of SDXL's width
    pooled: Tensor  # (P,)

    def blocks(self) -> list[nn.Module]:
        return [*self.network.down_blocks, self.network.mid_block]

    def draw(self, latent_BCHW: Tensor, generator: torch.Generator) -> Draw:
        batch, device = latent_BCHW.shape[0], latent_BCHW.device
        if not self.noisy_input:
            return Draw(torch.zeros(batch, dtype=torch.long, device=device))
        where = generator.device
        timestep_B = torch.randint(NUM_TIMESTEPS, (batch,), generator=generator, device=where)
        noise = torch.randn(latent_BCHW.shape, generator=generator, device=where)
        return Draw(timestep_B.to(device), noise.to(latent_BCHW))

    def forward(self, latent_BCHW: Tensor, condition_BND: Tensor, draw: Draw) -> Tensor:
        if draw.noise_BCHW is not None:
            signal_B111 = self.alpha_bar[draw.timestep_B].view(-1, 1, 1, 1)
            noise_BCHW = (1 - signal_B111).sqrt() * draw.noise_BCHW
            latent_BCHW = signal_B111.sqrt() * latent_BCHW + noise_BCHW
        features_BCHW = self._encode(latent_BCHW, condition_BND, draw.timestep_B)
        return self.head(features_BCHW).float()  # type: ignore[no-any-return]

    def _encode(self, latent_BCHW: Tensor, condition_BND: Tensor, timestep_B: Tensor) -> Tensor:
        """Do what the UNet does until its middle, by the UNet's own parts."""
        unet = self.network
        height, width = (FACTOR * side for side in latent_BCHW.shape[-2:])
        size = latent_BCHW.new_tensor([height, width, 0, 0, height, width])
        tokens_BND, text_BP = self._text(condition_BND)
        added = {"text_embeds": text_BP, "time_ids": size.expand(latent_BCHW.shape[0], -1)}
        time = unet.time_embedding(unet.get_time_embed(latent_BCHW, timestep_B))
        time = time + unet.get_aug_embed(time, tokens_BND, added)
        features: Tensor = unet.conv_in(latent_BCHW)
        for block in unet.down_blocks:
            text = {"encoder_hidden_states": tokens_BND} if _attends(block) else {}
            features, _ = block(hidden_states=features, temb=time, **text)
        return unet.mid_block(features, time, encoder_hidden_states=tokens_BND)  # type: ignore[no-any-return]

    def _text(self, condition_BND: Tensor) -> tuple[Tensor, Tensor]:
        """Return what stands in the places of SDXL's tokens and of its pooled text."""
        if self.condition == "tokens":
            return self.to_tokens(condition_BND), self.to_text(condition_BND.mean(dim=1))
        batch = condition_BND.shape[0]
        return self.prompt.expand(batch, -1, -1), self.pooled.expand(batch, -1)

    @staticmethod
    def make_network(sizes: Mapping[str, Any]) -> Any:
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

        return UNet2DConditionModel(**sizes)

    @staticmethod
    def draw_prompt(network: Any, tokens: int) -> dict[str, Tensor]:
        return {
            "prompt": torch.randn(tokens, network.config.cross_attention_dim),
            "pooled": torch.randn(_text_width(network)),
        }

    @staticmethod
    def encode_prompt(layout: Path, text: str) -> dict[str, Tensor]:
        from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import (
            StableDiffusionXLPipeline,
        )
        from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

        # Encoding a prompt does not use them.
        unused: dict[str, Any] = dict.fromkeys(["vae", "unet", "scheduler"])
        pipeline = StableDiffusionXLPipeline(
            text_encoder=CLIPTextModel.from_pretrained(
                layout / "text_encoder", use_safetensors=True
            ),
            text_encoder_2=CLIPTextModelWithProjection.from_pretrained(
                layout / "text_encoder_2", use_safetensors=True
            ),
            tokenizer=CLIPTokenizer.from_pretrained(layout / "tokenizer"),
            tokenizer_2=CLIPTokenizer.from_pretrained(layout / "tokenizer_2"),
            add_watermarker=False,
            **unused,
        )
        with torch.no_grad():
            prompt_BLD, _, pooled_BP, _ = pipeline.encode_prompt(
                text, device=torch.device("cpu"), do_classifier_free_guidance=False
            )
        return {"prompt": prompt_BLD[0], "pooled": pooled_BP[0]}


def _text_width(unet: Any) -> int:
    """Return P of the pooled text, which stands beside six numbers of the picture's size."""
    config = unet.config
    return int(config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim)


def _attends(block: Any) -> bool:
    return bool(getattr(block, "has_cross_attention", False))


def load_encoding_half(folder: Path) -> Any:
    """Load a UNet without its up blocks; of the files, only what is used is read (half of SDXL).

    Raises: ValueError if it is not SDXL's kind of UNet, or a part is missing.
    """
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config.get("addition_embed_type") != "text_time":
        raise ValueError(f"{folder} is not SDXL's UNet: its addition_embed_type is not 'text_time'")
    return load_network(
        UNet2DConditionModel, folder, trim=_keep_encoding_half, unused=DECODING_HALF
    )


def _keep_encoding_half(unet: Any) -> None:
    unet.up_blocks = nn.ModuleList()
    unet.conv_norm_out, unet.conv_act, unet.conv_out = None, None, nn.Identity()
