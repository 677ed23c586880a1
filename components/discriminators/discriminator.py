"""What a discriminator must offer: patch logits of a latent, beside what its weights are made from.

B batch, C, H and W of the latent, N tokens and D width of the generator's condition; h and w of the
grid of patches.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn

from components.weights.lora import LoraParams


class Draw(NamedTuple):
    """The random part of looking at a face: the same for its real and its restored latent.

    timestep_B: on the scale of 1000 steps.
    noise_BCHW: what the latent is mixed with before; None leaves it clean.
    """

    timestep_B: Tensor
    noise_BCHW: Tensor | None = None


class Discriminator(nn.Module, ABC):
    """A pretrained network with a head that gives each patch of a latent a logit."""

    folder: ClassVar[str]  # of the pretrained network in the published layout
    network: Any  # the pretrained one, of diffusers

    @abstractmethod
    def __init__(
        self, weights: Path, condition_width: int, *, lora: LoraParams | None, noisy_input: bool
    ) -> None:
        """Load the parts that are used.

        Args:
            weights: a diffusers folder.
            condition_width: D of the generator's condition.
            lora: trains low-rank layers of the pretrained network; None trains all of it.
            noisy_input: mixes noise of a random timestep into the latent first (the reference's
                option for SD).
        """
        super().__init__()

    @classmethod
    def of_sizes(
        cls,
        sizes: Mapping[str, Any],
        condition_width: int,
        *,
        lora: LoraParams | None,
        noisy_input: bool,
        prompt_tokens: int | None = None,
    ) -> Self:
        """Make the discriminator without a folder: on the meta device, to count what it costs."""
        made = cls.__new__(cls)
        nn.Module.__init__(made)
        with torch.device("meta"):
            network = cls.make_network(sizes)
            if (width := cls.prompt_width(network)) is not None:
                prompt_LD = torch.empty(prompt_tokens or 1, width)
                made.register_buffer("prompt_LD", prompt_LD, persistent=False)
            made.hold(network, condition_width, lora=lora, noisy_input=noisy_input)
        return made

    @abstractmethod
    def hold(
        self, network: Any, condition_width: int, *, lora: LoraParams | None, noisy_input: bool
    ) -> None:
        """Take the pretrained network and add what trains; called by every `__init__`."""

    @abstractmethod
    def blocks(self) -> list[nn.Module]:
        """List the parts of the network that come one after another and hold its weights."""

    @abstractmethod
    def draw(self, latent_BCHW: Tensor, generator: torch.Generator) -> Draw:
        """Draw what is random for a batch of faces."""

    @abstractmethod
    def forward(self, latent_BCHW: Tensor, condition_BND: Tensor, draw: Draw) -> Tensor:
        """Return patch logits in float32, higher for real: (B, C, H, W) -> (B, 1, h, w)."""

    @staticmethod
    @abstractmethod
    def make_network(sizes: Mapping[str, Any]) -> Any:
        """Make the pretrained network's class with new weights; sizes are its arguments."""

    @staticmethod
    def prompt_width(network: Any) -> int | None:
        """Return the width of the constant prompt that it needs beside the latent, if any."""
        del network
        return None

    @staticmethod
    def encode_prompt(layout: Path, text: str) -> Tensor:
        """Embed a constant prompt: (L, width). Raises: ValueError if the network takes none."""
        raise ValueError(
            f"{layout}: this discriminator takes no prompt, not even {text!r}: remove `prompt` "
            "from the section of its weights"
        )
