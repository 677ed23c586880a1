"""What `hdrface ablate` runs: the parameters of each variant, as DVC gets them."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from components import ablations, profiles
from components.ablations import Variant
from components.params import ParamsError
from pipelines.commands.config import check_values

CONF = Path(__file__).parents[2] / "conf"


@pytest.fixture(scope="module")
def tiny() -> dict[str, Any]:
    return dict(yaml.safe_load(profiles.compose("tiny", conf=CONF)))


def applied(values: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """Apply overrides as `dvc exp run --no-hydra --set-param` does."""
    from dvc.utils.hydra import apply_overrides

    folder = Path.cwd()
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    apply_overrides(folder / "params.yaml", overrides)
    return dict(yaml.safe_load((folder / "params.yaml").read_text()))


@pytest.mark.parametrize("name", ["condition", "lora-rank", "losses"])
def test_dvc_gets_the_parameters_of_each_variant_and_they_are_valid(
    name: str, tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ablation = ablations.read(name, tiny, CONF)
    assert ablation.choice in {variant.name for variant in ablation.variants}
    dvc_file = (CONF.parent / "dvc.yaml").read_text()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dvc.yaml").write_text(dvc_file)
    for variant in ablation.variants:
        assert applied(tiny, variant.overrides(tiny)) == variant.values, variant.name
        check_values(variant.values, Path(variant.name))


def test_the_text_twin_learns_as_long_and_by_the_same_losses(tiny: dict[str, Any]) -> None:
    variants = {each.name: each for each in ablations.read("condition", tiny, CONF).variants}
    text, sdfm = variants["text"], variants["sdfm"]
    assert text.models == ("sd21-text", "qwen-text")
    assert sdfm.models == ("sd21-sdfm", "qwen-sdfm")
    for backbone in ("sd21", "qwen"):
        plain, fused = text.values["plain"][backbone], sdfm.values["train"][backbone]
        for key in ("losses", "optimization", "trainable", "clean_condition"):
            assert plain[key] == fused[key], (backbone, key)
    assert text.values["train"] == tiny["train"]


def test_a_variant_with_the_parameters_of_another_is_left_out(tiny: dict[str, Any]) -> None:
    # No perceptual and no identity loss is at work in `tiny`.
    names = [variant.name for variant in ablations.read("losses", tiny, CONF).variants]
    assert names == ["all", "no-pixel", "no-adversarial"]


def test_a_sweep_crosses_every_value_with_every_variant(tiny: dict[str, Any]) -> None:
    sweep = ablations.swept(
        ablations.whole(tiny),
        ["train.sd21.optimization.steps=3,4", "degrade.recipe.noise=[0,5],[0,9]"],
    )
    steps = [v.values["train"]["sd21"]["optimization"]["steps"] for v in sweep.variants]
    noise = [v.values["degrade"]["recipe"]["noise"] for v in sweep.variants]
    assert steps == [3, 3, 4, 4]
    assert noise == [[0, 5], [0, 9]] * 2
    assert sweep.choice == sweep.variants[0].name == "steps-3-noise-0-5"
    assert len({variant.name for variant in sweep.variants}) == 4
    condition = ablations.read("condition", tiny, CONF)
    crossed = ablations.swept(condition, ["degrade.seed=1,2"])
    assert len(crossed.variants) == 8
    assert crossed.choice == "sdfm-seed-1"


@pytest.mark.parametrize(
    ("sweep", "said"),
    [
        ("degrade.sede=1,2", "degrade.sede = 1: .*sede"),
        ("degrade.seed", "'degrade.seed' is not of the form KEY=V1,V2"),
        ("degrade.seed=[1", "is no list of values"),
    ],
)
def test_a_sweep_of_nothing_is_refused(sweep: str, said: str, tiny: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=said):
        ablations.swept(ablations.whole(tiny), [sweep])


def test_what_a_profile_cannot_vary_is_told_with_file_and_key(tiny: dict[str, Any]) -> None:
    with pytest.raises(ParamsError, match=r"dinov3.yaml: variants.small.change: weights.dinov3"):
        ablations.read("dinov3", tiny, CONF)
    with pytest.raises(ValueError, match=r"no ablation 'conditions': .*did you mean 'condition'"):
        ablations.read("conditions", tiny, CONF)


def test_keys_that_a_value_no_longer_has_are_taken_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    base = {"a": {"b": 1, "c": "it's", "d": None}, "e": [1, {"f": "x"}]}
    changed = {"a": {"b": None, "c": 'say "a\\b"', "d": {"g": True}}, "e": []}
    overrides = Variant("x", (), changed).overrides(base)
    assert applied(base, overrides) == changed
    assert applied(changed, Variant("x", (), {"a": {"b": 2}, "e": []}).overrides(changed)) == {
        "a": {"b": 2},
        "e": [],
    }
