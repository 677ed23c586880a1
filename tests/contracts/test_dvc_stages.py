"""`dvc.yaml` against the code: a stage has its module, its parameters and exactly its sources."""

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.lineage import source_hashes
from pipelines.commands.config import MATRIX_SECTIONS, SECTIONS

REPOSITORY = Path(__file__).parents[2]
STAGES: Mapping[str, Mapping[str, Any]] = {
    name: stage.get("do", stage)  # below `foreach`
    for name, stage in yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"].items()
}
# They move and check things, and make nothing (dvc.yaml says so on top).
LEFT_OUT = re.compile(r"components/params\.py")


def is_empty(file: Path) -> bool:
    """Tell whether a file holds nothing but a docstring, as most `__init__.py` do."""
    return all(isinstance(node, ast.Expr) for node in ast.parse(file.read_text()).body)


def imported_sources(stage: str) -> set[str]:
    return {
        file
        for file in source_hashes(f"pipelines.{stage}", REPOSITORY)
        if not LEFT_OUT.fullmatch(file) and not is_empty(REPOSITORY / file)
    }


def declared_sources(stage: str) -> Iterator[tuple[str, set[str]]]:
    """Give each source among the deps of a stage, with the files that it stands for."""
    for dep in STAGES[stage]["deps"]:
        if dep.startswith(("components/", "pipelines/")):
            files = (REPOSITORY / dep).rglob("*.py") if dep[-3:] != ".py" else [REPOSITORY / dep]
            yield (
                dep,
                {file.relative_to(REPOSITORY).as_posix() for file in files if not is_empty(file)},
            )


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_is_a_module_of_its_name(stage: str) -> None:
    assert STAGES[stage]["cmd"].split()[:3] == ["python", "-m", f"pipelines.{stage}"]
    assert (REPOSITORY / f"pipelines/{stage}.py").is_file()


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_exactly_the_sources_that_it_imports(stage: str) -> None:
    imported = imported_sources(stage)
    declared = dict(declared_sources(stage))
    missing = imported - set().union(*declared.values())
    superfluous = {dep: sorted(files - imported) for dep, files in declared.items()}
    assert not missing, f"add to the deps of {stage}: {sorted(missing)}"
    assert not any(superfluous.values()), f"{stage} does not import all of {superfluous}"


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_is_rerun_by_its_whole_section_and_never_by_compute(stage: str) -> None:
    sections = STAGES[stage]["params"]
    assert stage in {section.split(".")[0] for section in sections}
    for section in sections:
        assert re.fullmatch(r"[a-z]+(\.\$\{(item\.[a-z]+|key)\})?", section), section
        assert section.split(".")[0] != "compute"


def test_every_stage_has_a_typed_section_and_every_section_a_stage() -> None:
    assert {*STAGES, "serve"} == SECTIONS.keys() | MATRIX_SECTIONS.keys()  # it runs beside the line
