"""What a generator must offer to restore a face in one step.

B batch, C latent channels, H and W: of the image in `image_B3HW`, of the latent in `latent_BCHW`.
N condition tokens, D condition width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from components.params import Params

Trainable = Literal["full", "lora"]


class LoraParams(Params):
    """A low-rank change of the generator; dropout is 0 (METHOD, section 3: rank 16, alpha 16)."""

    rank: PositiveInt
    alpha: PositiveInt
    targets: Sequence[str] | None = None  # None: the published list of the backbone


@dataclass(frozen=True)
class StepNoise:
    """The random part of one step; backbones that add none ignore it.

    noise_BCHW: standard normal, of the latent's shape.
    condition_sigma_B: noise level of the condition latent in [0, 1]; 0 leaves it clean.
    """

    noise_BCHW: Tensor
    condition_sigma_B: Tensor


class Backbone(Protocol):
    """A pretrained latent generator and its autoencoder, used for one fixed step.

    Images are RGB in [0, 1]; latents are already scaled as the generator expects them.
    """

    name: str
    generator: nn.Module
    condition_width: int
    takes_noise: bool

    def to(self, device: torch.device) -> Any:
        """Move all networks to a device, in place."""

    def encode(self, image_B3HW: Tensor) -> Tensor:
        """Return the scaled posterior mean, without gradient: (B, 3, H, W) -> (B, C, h, w)."""

    def step(
        self, lq_latent_BCHW: Tensor, condition_BND: Tensor, noise: StepNoise | None
    ) -> Tensor:
        """Take the one step from the degraded latent to the restored one, of the same shape."""

    def decode(self, latent_BCHW: Tensor) -> Tensor:
        """Return the image of a scaled latent, not clamped; gradients flow to the latent."""

    def training_noise(
        self, lq_latent_BCHW: Tensor, generator: torch.Generator, *, clean_condition: float
    ) -> StepNoise | None:
        """Draw what a step adds at random; the condition stays clean with this probability."""

    def inference_noise(self, noise_BCHW: Tensor, fidelity: float) -> StepNoise | None:
        """Arrange given noise for a fidelity in [0, 1]; 1 stays closest to the degraded face."""

    def train_only(self, trainable: Trainable, lora: LoraParams | None) -> None:
        """Freeze everything but what trains; adds LoRA layers for `lora`."""

    def save_trained(self, folder: Path, trainable: Trainable) -> None:
        """Write what was trained, in the published format."""

    def load_lora(self, folder: Path) -> None:
        """Add the LoRA layers of a folder in the published layout."""
