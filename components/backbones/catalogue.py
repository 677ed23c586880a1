"""The families of generators by name. A family is one file, and one line here."""

from typing import Annotated

from components.backbones.backbone import Backbone, Posterior, Trainable
from components.backbones.qwen_image import QwenImage
from components.backbones.stable_diffusion import StableDiffusion
from components.params import one_of

FAMILIES: dict[str, type[Backbone]] = {
    "sd21": StableDiffusion,
    "qwen": QwenImage,
}


BackboneName = Annotated[str, one_of(FAMILIES)]


def check_posterior(backbone: BackboneName, posterior: Posterior) -> None:
    """Raise ValueError if the family's latents cannot be what is asked for."""
    if posterior == "sample" and not FAMILIES[backbone].samples_posterior:
        raise ValueError(
            f"posterior = sample, but {backbone} takes posterior means only: set posterior to mean"
        )


def check_trainable(backbone: BackboneName, trainable: Trainable) -> None:
    """Raise ValueError if the family does not train in the way that is asked for."""
    ways = FAMILIES[backbone].trains
    if trainable not in ways:
        raise ValueError(
            f"trainable = {trainable}, but {backbone} trains as {' or '.join(ways)}: set trainable "
            "to one of these"
        )
