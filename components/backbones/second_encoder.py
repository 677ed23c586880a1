"""A second encoder of Qwen-Image's autoencoder (METHOD, section 4).

The authors trained a copy of the encoder together with the generator: it makes the latent that is
restored (z_t), while the frozen one still makes the condition. Where a folder has none, the frozen
encoder makes both, which is how such a training begins.
"""

import copy
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import nn

FILE = "second_encoder.safetensors"  # diffusers' names below `encoder.` of the autoencoder


def save(encoder: nn.Module, folder: Path) -> None:
    """Write all tensors of a second encoder into `folder`."""
    tensors = {name: tensor.contiguous() for name, tensor in encoder.state_dict().items()}
    save_file(tensors, folder / FILE, metadata={"format": "pt"})


def load(vae: Any, folder: Path) -> nn.Module | None:
    """Read the second encoder of a folder; None if it has none.

    Raises: ValueError if it is of another autoencoder.
    """
    file = folder / FILE
    if not file.is_file():
        return None
    encoder: nn.Module = copy.deepcopy(vae.encoder)
    try:
        encoder.load_state_dict(load_file(file))
    except RuntimeError as error:  # what load_state_dict raises for other names or shapes
        raise ValueError(f"{file} is of another autoencoder: {error}") from error
    return encoder
