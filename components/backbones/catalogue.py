"""The backbones by name; each is imported only when asked for, since diffusers costs seconds."""

from pathlib import Path
from typing import Literal

from components.backbones.protocol import Backbone

BackboneName = Literal["sd21", "qwen"]

# The intermediate restorer of one backbone is the other one, trained alone (paper, section 3.1).
OTHER: dict[BackboneName, BackboneName] = {"sd21": "qwen", "qwen": "sd21"}


def load_backbone(name: BackboneName, weights: Path, *, generator: Path | None = None) -> Backbone:
    """Load a backbone from a diffusers folder; `generator` is the folder of one trained in full."""
    if name == "sd21":
        from components.backbones.stable_diffusion import StableDiffusionBackbone

        return StableDiffusionBackbone(weights, generator=generator)
    from components.backbones.qwen_image import QwenImageBackbone

    return QwenImageBackbone(weights, generator=generator)
