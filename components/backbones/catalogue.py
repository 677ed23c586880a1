"""The families of generators by name. A family is one file, and one line here."""

from difflib import get_close_matches
from typing import Annotated

from pydantic import AfterValidator

from components.backbones.backbone import Backbone
from components.backbones.qwen_image import QwenImage
from components.backbones.stable_diffusion import StableDiffusion

FAMILIES: dict[str, type[Backbone]] = {
    "sd21": StableDiffusion,
    "qwen": QwenImage,
}


def _known(name: str) -> str:
    if name not in FAMILIES:
        near = get_close_matches(name, FAMILIES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(FAMILIES)}"
        raise ValueError(f"{name!r} is no backbone: {hint}")
    return name


BackboneName = Annotated[str, AfterValidator(_known)]
