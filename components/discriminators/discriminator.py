"""What a discriminator must offer: patch logits of a latent, beside what its weights are made from.

B batch, C, H and W of the latent, N tokens and D width of the generator's condition; h and w of the
grid of patches.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from components.params import Params
from components.weights.lora import LoraParams
from components.weights.prompt import PROMPT_FILE

# What conditions it: the tokens that condition the generator, or one constant prompt.
DiscriminatorCondition = Literal["tokens", "prompt"]


class DiscriminatorOptions(Params):
    """What of a discriminator trains, and what it sees.

    condition: the generator's tokens (the paper, for SD), or the constant prompt of its weights
        (Wan; the reference, for SD).
    noisy_input: mixes noise of a random timestep into the latent first (the reference, for SD).
    """

    lora: LoraParams | None = None  # None: all of it trains
    condition: DiscriminatorCondition
    noisy_input: bool = False


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
    def __init__(self, weights: Path, condition_width: int, options: DiscriminatorOptions) -> None:
        """Load the parts that are used.

        Args:
            weights: a diffusers folder.
            condition_width: D of the generator's condition.
            options: what trains, and what it sees.

        Raises: ValueError for an option that this network does not have.
        """
        super().__init__()

    @classmethod
    def of_sizes(
        cls,
        sizes: Mapping[str, Any],
        condition_width: int,
        options: DiscriminatorOptions,
        *,
        prompt_tokens: int | None = None,
    ) -> Self:
        """Make the discriminator without a folder: on the meta device, to count what it costs."""
        made = cls.__new__(cls)
        nn.Module.__init__(made)
        with torch.device("meta"):
            network = cls.make_network(sizes)
            if options.condition == "prompt":
                made.take_prompt(cls.draw_prompt(network, prompt_tokens or 1))
            made.hold(network, condition_width, options)
        return made

    def take_prompt(self, tensors: Mapping[str, Tensor]) -> None:
        """Keep the tensors of a constant prompt, in float32."""
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor.float(), persistent=False)

    @abstractmethod
    def hold(self, network: Any, condition_width: int, options: DiscriminatorOptions) -> None:
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
    @abstractmethod
    def draw_prompt(network: Any, tokens: int) -> dict[str, Tensor]:
        """Draw a constant prompt of so many tokens, for a stand-in, as `encode_prompt` makes it."""

    @staticmethod
    @abstractmethod
    def encode_prompt(layout: Path, text: str) -> dict[str, Tensor]:
        """Embed a constant prompt by the text encoders of the published layout.

        `prompt`: (L, width), and what else the network asks for.
        """


def read_prompt(weights: Path) -> dict[str, Tensor]:
    """Read the constant prompt beside the weights. Raises: FileNotFoundError with what to do."""
    if not (weights / PROMPT_FILE).is_file():
        raise FileNotFoundError(
            f"{weights / PROMPT_FILE}: there is no constant prompt for the discriminator: describe "
            "it under `prompt` in the section of its weights and run 'dvc repro weights'"
        )
    return load_file(weights / PROMPT_FILE)
