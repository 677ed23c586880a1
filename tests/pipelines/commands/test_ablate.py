"""What `hdrface ablate` makes once, in the tree, and what it takes along to its experiments."""

import subprocess
from pathlib import Path

import pytest
import yaml

from components import ablations, profiles
from pipelines.commands.ablate import left_behind, shared_tables

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


@pytest.mark.parametrize(
    ("known", "taken"),
    [
        ([], ["dvc.lock", "scores"]),
        (["dvc.lock"], ["scores"]),
        (["dvc.lock", "scores/one.json"], ["scores/other one.json"]),
        (["dvc.lock", "scores"], []),
    ],
)
@pytest.mark.parametrize("is_committed", [False, True])
def test_an_experiment_takes_along_what_git_does_not_know(
    known: list[str],
    taken: list[str],
    is_committed: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def git(*words: str) -> None:
        identity = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org")
        subprocess.run(["git", "-C", tmp_path, *identity, *words], check=True)

    (tmp_path / "scores").mkdir()
    for name in ("dvc.lock", "scores/one.json", "scores/other one.json"):
        (tmp_path / name).touch()
    git("init", "--quiet")
    if known:
        git("add", *known)
    if known and is_committed:
        git("commit", "--quiet", "--message=known")
    monkeypatch.chdir(tmp_path)
    assert left_behind(["dvc.lock", "scores", "not there"]) == taken
