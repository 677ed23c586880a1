"""A second encoder of Qwen-Image's autoencoder (METHOD, section 4).

The authors trained a copy of the encoder together with the generator: it makes the latent that is
restored (z_t), while the frozen one still makes the condition. Where a folder has none, the frozen
encoder makes both, which is how such a training begins.
"""

import copy
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from components.weights.placed import PlacedModule

FILE = "second_encoder.safetensors"  # diffusers' names below `encoder.` of the autoencoder


class SecondEncoder(PlacedModule):
    """A copy of an autoencoder's encoder, with weights of its own."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(vae.encoder)

    def forward(self, signed_B31HW: Tensor) -> Tensor:
        moments_BC1HW: Tensor = self.encoder(signed_B31HW)
        return moments_BC1HW


def save(second: SecondEncoder, folder: Path) -> None:
    """Write all tensors of a second encoder into `folder`."""
    state = second.encoder.state_dict()
    tensors = {name: tensor.contiguous() for name, tensor in state.items()}
    save_file(tensors, folder / FILE, metadata={"format": "pt"})


def load(vae: Any, folder: Path) -> SecondEncoder | None:
    """Read the second encoder of a folder; None if it has none.

    Raises: ValueError if it is of another autoencoder.
    """
    file = folder / FILE
    if not file.is_file():
        return None
    second = SecondEncoder(vae)
    try:
        second.encoder.load_state_dict(load_file(file))
    except RuntimeError as error:  # what load_state_dict raises for other names or shapes
        raise ValueError(f"{file} is of another autoencoder: {error}") from error
    return second
