"""Wan 2.1 (1.3 B) with a small head: the opponent of Qwen-Image (METHOD, section 4)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from components.discriminators.discriminator import (
    Discriminator,
    DiscriminatorOptions,
    Draw,
    read_prompt,
)
from components.weights import lora as low_rank
from components.weights.network_files import load_network

IMAGE_NORMS = ("norm_added_q",)  # in published files; for images as a condition alone
SHIFT = 3  # of the timesteps: σ = 3 u / (1 + 2 u), u uniform


class WanDiscriminator(Discriminator):
    """The video transformer on one frame, at a random timestep, and a head on what it predicts.

    The latent stays clean; the timestep only chooses what the transformer looks at. Its text is one
    constant embedding, not the generator's condition. Qwen-Image's latents are Wan's, so they fit.
    A latent of H × W has H × W patches.
    """

    folder = "transformer"
    lora_targets = ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2")

    def __init__(self, weights: Path, condition_width: int, options: DiscriminatorOptions) -> None:
        """Load `transformer/` and the constant prompt.

        Raises: ValueError for `noisy_input` and for `tokens`, which are SDXL's.
        """
        from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

        super().__init__(weights, condition_width, options)
        network = load_network(WanTransformer3DModel, weights / self.folder, unused=IMAGE_NORMS)
        self.take_prompt(read_prompt(weights))
        self.hold(network, condition_width, options)

    def hold(self, network: Any, condition_width: int, options: DiscriminatorOptions) -> None:
        del condition_width
        if options.noisy_input:
            raise ValueError("discriminator.noisy_input: Wan looks at clean latents; set it false")
        if options.condition != "prompt":
            raise ValueError(
                f"discriminator.condition = {options.condition}: Wan takes a constant prompt; set "
                "it to prompt"
            )
        self.network = network
        if options.lora is not None:
            low_rank.add(self.network, options.lora, self.lora_targets)
        self.head = nn.Sequential(
            nn.Conv2d(self.network.config.out_channels, 32, 3, padding=1),
            nn.PReLU(),
            nn.Conv2d(32, 1, 3, padding=1),
        )

    prompt: Tensor  # (L, D), of Wan's width

    def blocks(self) -> list[nn.Module]:
        return list(self.network.blocks)

    def draw(self, latent_BCHW: Tensor, generator: torch.Generator) -> Draw:
        uniform_B = torch.rand(
            latent_BCHW.shape[0], generator=generator, device=generator.device
        ).to(latent_BCHW.device)
        return Draw(1000 * SHIFT * uniform_B / (1 + (SHIFT - 1) * uniform_B))

    def forward(self, latent_BCHW: Tensor, condition_BND: Tensor, draw: Draw) -> Tensor:
        del condition_BND
        velocity_BC1HW: Tensor = self.network(
            latent_BCHW.unsqueeze(2),
            timestep=draw.timestep_B,
            encoder_hidden_states=self.prompt.expand(latent_BCHW.shape[0], -1, -1),
        ).sample
        return self.head(velocity_BC1HW.squeeze(2)).float()  # type: ignore[no-any-return]

    @staticmethod
    def make_network(sizes: Mapping[str, Any]) -> Any:
        from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

        return WanTransformer3DModel(**sizes)

    @staticmethod
    def draw_prompt(network: Any, tokens: int) -> dict[str, Tensor]:
        return {"prompt": torch.randn(tokens, network.config.text_dim)}

    @staticmethod
    def encode_prompt(layout: Path, text: str) -> dict[str, Tensor]:
        from diffusers.pipelines.wan.pipeline_wan import WanPipeline
        from transformers import AutoTokenizer, UMT5EncoderModel

        # Encoding a prompt does not use them.
        unused: dict[str, Any] = dict.fromkeys(["vae", "transformer", "scheduler"])
        tokenizer: Any = AutoTokenizer.from_pretrained(layout / "tokenizer")
        pipeline = WanPipeline(
            text_encoder=UMT5EncoderModel.from_pretrained(
                layout / "text_encoder", use_safetensors=True, dtype="auto"
            ),
            tokenizer=tokenizer,
            **unused,
        )
        prompt_BLD: Tensor = pipeline.encode_prompt(
            text, do_classifier_free_guidance=False, device=torch.device("cpu")
        )[0]
        return {"prompt": prompt_BLD[0]}
