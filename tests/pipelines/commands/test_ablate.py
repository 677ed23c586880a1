"""Which tables `hdrface ablate` makes once, in the tree, before its experiments."""

from pathlib import Path

import pytest
import yaml

from components import ablations, profiles
from pipelines.commands.ablate import shared_tables

CONF = Path(__file__).parents[3] / "conf"


@pytest.mark.parametrize(
    ("name", "sweep", "variants", "shared"),
    [
        ("condition", [], {"text"}, ["faces", "degrade"]),
        ("condition", [], {"lr"}, ["faces", "degrade", "intermediates", "features"]),
        ("condition", [], {"text", "lr"}, ["faces", "degrade", "intermediates", "features"]),
        ("losses", [], {"no-pixel"}, ["faces", "degrade", "intermediates", "features"]),
        ("intermediate", [], {"codeformer"}, ["faces", "degrade"]),
        ("losses", ["degrade.seed=8,9"], {"all-seed-8", "all-seed-9"}, ["faces"]),
        ("losses", ["faces.size=32"], {"all-size-32"}, ["faces"]),
    ],
)
def test_a_table_is_made_once_if_a_variant_has_the_parameters_that_lead_to_it(
    name: str, sweep: list[str], variants: set[str], shared: list[str]
) -> None:
    values = yaml.safe_load(profiles.compose("tiny", conf=CONF))
    ablation = ablations.swept(ablations.read(name, values, CONF), sweep)
    chosen = [variant for variant in ablation.variants if variant.name in variants]
    assert {variant.name for variant in chosen} == variants
    assert shared_tables(chosen, values) == shared
