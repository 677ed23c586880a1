"""The discriminators by name; a family of generators names its own (`Backbone.discriminator`)."""

from collections.abc import Mapping

from components.backbones.catalogue import FAMILIES
from components.discriminators.discriminator import Discriminator
from components.discriminators.sdxl import SdxlDiscriminator
from components.discriminators.wan import WanDiscriminator

DISCRIMINATORS: Mapping[str, type[Discriminator]] = {
    "sdxl": SdxlDiscriminator,
    "wan": WanDiscriminator,
}
_SUFFIX = "-discriminator"


def discriminator_named(network: str) -> type[Discriminator] | None:
    """Return the discriminator of weights called BACKBONE-discriminator; None for other weights."""
    backbone = network.removesuffix(_SUFFIX)
    if backbone == network or backbone not in FAMILIES:
        return None
    return DISCRIMINATORS[FAMILIES[backbone].discriminator]
