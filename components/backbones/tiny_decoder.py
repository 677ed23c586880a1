"""A tiny decoder in place of an autoencoder's: rough pictures, with few operations (TAESD).

Others have distilled it from the autoencoder. It takes latents as the generator gives them: there
is no scaling factor between the two (github.com/madebyollin/taesd; in diffusers, AutoencoderTiny).

B batch, C latent channels, h and w of the latent, H and W of the picture.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from safetensors import SafetensorError
from torch import Tensor, nn

from components.weights.licences import licence_of
from components.weights.network_files import FILE, load_network

_CONFIG, _KIND = "config.json", "AutoencoderTiny"


@dataclass(frozen=True)
class PublishedDecoder:
    """Where a tiny decoder is published, in the layout of diffusers' AutoencoderTiny."""

    repository: str  # on the hub
    megabytes: float  # of the file of weights, with an encoder that is not used here
    sizes: Mapping[str, Any]  # arguments of diffusers' class

    def remedy(self, folder: Path) -> str:
        """Return how it is fetched into a folder, its size and its licence."""
        return (
            f"'hf download {self.repository} {_CONFIG} {FILE} --local-dir {folder}' fetches one "
            f"({self.megabytes:g} MB, licence {licence_of(self.repository)})"
        )


class TinyDecoder(nn.Module):
    """Decode roughly: latent_BCHW as the generator gives it -> RGB, about in [0, 1]."""

    def __init__(self, network: Any) -> None:
        """Take an AutoencoderTiny; its encoder is not used."""
        super().__init__()
        self.network = network

    @classmethod
    def load(
        cls, folder: Path, published: PublishedDecoder, *, channels: int, reduction: int
    ) -> Self:
        """Load the decoder of a folder in the published layout; its weights are mapped.

        Args:
            folder: `config.json` and the weights as safetensors.
            published: where such a decoder can be had.
            channels: C of the latents.
            reduction: H / h.

        Raises: FileNotFoundError naming a missing file; ValueError if the folder holds another
            network, a decoder of other latents, or no safetensors.
        """
        from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

        _check_files(folder, published)
        kind = AutoencoderTiny.load_config(folder).get("_class_name")
        if kind != _KIND:
            raise ValueError(f"{folder} holds {kind}, not {_KIND}: {published.remedy(folder)}")
        try:
            network = load_network(AutoencoderTiny, folder, trim=_drop_encoder, unused=("encoder",))
        except SafetensorError as error:
            raise ValueError(
                f"{folder / FILE} is damaged or no safetensors ({error}), and pickles are not "
                f"read: {published.remedy(folder)}"
            ) from error
        if wrong := _misfits(network.config, channels, reduction):
            raise ValueError(
                f"{folder} decodes other latents than the model's: {'; '.join(wrong)}: "
                f"{published.remedy(folder)}"
            )
        return cls(network)

    def forward(self, latent_BCHW: Tensor) -> Tensor:
        """Decode: (B, C, h, w) -> (B, 3, H, W), float32, not clamped."""
        signed_B3HW: Tensor = self.network.decode(latent_BCHW).sample  # as diffusers has it
        return (signed_B3HW.float() + 1) / 2


def _check_files(folder: Path, published: PublishedDecoder) -> None:
    """Raise FileNotFoundError if a file is missing: diffusers would ask the hub for it."""
    for name in (_CONFIG, FILE):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder / name} is missing: a preview needs the folder of a tiny decoder, with "
                f"its weights as safetensors: {published.remedy(folder)}"
            )


def _drop_encoder(network: Any) -> None:
    del network.encoder


def _misfits(config: Any, channels: int, reduction: int) -> list[str]:
    """List what keeps a network of this configuration from decoding the latents."""
    steps = len(config.num_decoder_blocks) - 1
    wanted_and_found = {
        "latent_channels": (channels, config.latent_channels),
        "out_channels": (3, config.out_channels),
        "the enlargement": (reduction, config.upsampling_scaling_factor**steps),
        "scaling_factor": (1, config.scaling_factor),
        "shift_factor": (0, config.shift_factor),
    }
    return [
        f"{what} is {found:g}, {wanted:g} is needed"
        for what, (wanted, found) in wanted_and_found.items()
        if found != wanted
    ]
