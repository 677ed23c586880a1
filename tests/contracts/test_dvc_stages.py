"""`dvc.yaml` against the code: a stage has its module, its items, its parameters, its sources."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from components import profiles
from components.lineage import MAKE_NOTHING, source_hashes
from components.params import Params
from components.weights.manifest import INT8_CHECK
from pipelines.stage import STAGES, Stage

REPOSITORY = Path(__file__).parents[2]
ENTRIES: Mapping[str, Mapping[str, Any]] = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())[
    "stages"
]


def entry(stage: str) -> Mapping[str, Any]:
    """Give a stage's entry; of one that is made for each of several, what is below `do`."""
    found: Mapping[str, Any] = ENTRIES[stage].get("do", ENTRIES[stage])
    return found


def sources_among_deps(stage: str) -> list[str]:
    return [dep for dep in entry(stage)["deps"] if dep.startswith(("components", "pipelines"))]


def lies_below(file: str, dep: str) -> bool:
    return file == dep or file.startswith(f"{dep.rstrip('/')}/")


def test_the_stages_of_the_code_are_those_of_dvc() -> None:
    assert list(ENTRIES) == list(STAGES)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_is_a_module_of_its_name_and_takes_the_items_of_its_matrix(stage: str) -> None:
    python, dash_m, module, *words = entry(stage)["cmd"].split()
    assert (python, dash_m, module) == ("python", "-m", f"pipelines.{stage}")
    items = list(Stage.load(stage).items)
    if "foreach" in ENTRIES[stage]:
        assert words == ["${key}"]
        assert len(items) == 1
    else:
        assert list(entry(stage).get("matrix", {})) == items
        assert words == [f"${{item.{item}}}" for item in items]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_takes_its_own_parameters_first_then_compute_and_ends_by_starting_itself(
    stage: str,
) -> None:
    form = Stage.load(stage)
    assert issubclass(form.params, Params)
    assert next(iter(form.run.__annotations__)) == "params"
    if form.takes_compute:
        assert list(form.run.__annotations__)[1] == "compute"
    last = (REPOSITORY / f"pipelines/{stage}.py").read_text().splitlines()[-2:]
    assert last == ['if __name__ == "__main__":', f'    stage.start("pipelines.{stage}")']


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_all_that_it_imports_and_on_no_other_code(stage: str) -> None:
    imported = source_hashes(f"pipelines.{stage}", REPOSITORY)
    deps = sources_among_deps(stage)
    missing = [file for file in imported if not any(lies_below(file, dep) for dep in deps)]
    unused = [dep for dep in deps if not any(lies_below(file, dep) for file in imported)]
    assert not missing, f"add to the deps of {stage}: {missing}"
    assert not unused, f"{stage} imports nothing from {unused}"


@pytest.mark.parametrize("place", MAKE_NOTHING)
def test_what_is_left_out_of_a_fingerprint_is_there(place: str) -> None:
    assert (REPOSITORY / place).is_dir() if place.endswith("/") else (REPOSITORY / place).is_file()


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_is_rerun_by_its_whole_section_and_never_by_compute(stage: str) -> None:
    section = re.sub(r"\{(.*)\}", r"${item.\1}", Stage.load(stage).section)
    if "foreach" in ENTRIES[stage]:
        section = f"{Stage.load(stage).head}.${{key}}"
    also = ["require_assets"] if stage == "samples" else []
    assert entry(stage)["params"] == [section, *also]


@pytest.mark.parametrize("profile", profiles.profiles(REPOSITORY / "conf"))
def test_scores_are_made_again_when_the_table_of_groups_changes(profile: str) -> None:
    assert "${evaluate.groups}" in entry("evaluate")["deps"]
    values = yaml.safe_load(profiles.compose(profile, conf=REPOSITORY / "conf"))
    assert (REPOSITORY / values["evaluate"]["groups"]).is_file()  # a dependency is not optional


def test_dvc_does_not_see_the_note_that_a_check_leaves_in_a_trained_folder() -> None:
    assert INT8_CHECK in (REPOSITORY / ".dvcignore").read_text().split()
