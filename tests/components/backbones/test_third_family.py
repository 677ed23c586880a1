"""The third family of the tests says all that is asked of one: the line with it takes minutes."""

from pathlib import Path

import torch
from omegaconf import OmegaConf

from tests.end_to_end import toy_family
from tests.end_to_end.toy_family import Toy

SETTINGS = Path(toy_family.__file__).with_suffix(".yaml")


def test_the_third_family_is_made_of_its_settings_and_lists_blocks_of_its_generator() -> None:
    stand_in = OmegaConf.load(SETTINGS).weights.toy.stand_in
    family = Toy.of_sizes(stand_in.vae, stand_in.generator)
    blocks = torch.nn.ModuleList(family.generator_blocks())
    assert set(blocks.parameters()) == set(family.generator.parameters())
