"""Which Pythons the project runs on: `pyproject.toml` says it, other files follow."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name


@pytest.fixture(scope="module")
def pyproject(repository: Path) -> dict[str, Any]:
    return tomllib.loads((repository / "pyproject.toml").read_text())


def pythons(pyproject: dict[str, Any]) -> list[str]:
    wanted = SpecifierSet(pyproject["project"]["requires-python"])
    return [f"3.{minor}" for minor in range(50) if f"3.{minor}.0" in wanted]


def locked(repository: Path, python: str, system: str) -> dict[str, str]:
    """Return the versions of `requirements.lock` that this Python gets on this system."""
    there = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": system}
    found = {}
    for line in (repository / "requirements.lock").read_text().splitlines():
        try:
            package = Requirement(line.rstrip(" \\"))
        except InvalidRequirement:
            continue  # a hash
        if package.marker is None or package.marker.evaluate(there):
            found[canonicalize_name(package.name)] = str(package.specifier).removeprefix("==")
    return found


def test_make_knows_the_same_pythons(repository: Path, pyproject: dict[str, Any]) -> None:
    named = re.search(r"^PYTHONS := (.+)$", (repository / "Makefile").read_text(), re.MULTILINE)
    assert named
    assert named[1].split() == pythons(pyproject)


@pytest.mark.parametrize("system", ["linux", "darwin"])
def test_the_lock_serves_every_python(
    repository: Path, pyproject: dict[str, Any], system: str
) -> None:
    project = pyproject["project"]
    listed = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    supported = pythons(pyproject)
    assert supported
    for python in supported:
        versions = locked(repository, python, system)
        for line in listed:
            wanted = Requirement(line)
            name = canonicalize_name(wanted.name)
            assert name in versions, f"{name} on Python {python}"
            assert versions[name] in wanted.specifier, f"{line} on Python {python}"


def test_the_lock_has_nothing_for_a_later_python(
    repository: Path, pyproject: dict[str, Any]
) -> None:
    latest = pythons(pyproject)[-1]
    later = f"3.{int(latest.removeprefix('3.')) + 1}"
    assert locked(repository, latest, "linux")
    assert not locked(repository, later, "linux")


def test_linters_check_for_the_lowest_python(pyproject: dict[str, Any]) -> None:
    lowest = pythons(pyproject)[0]
    assert pyproject["tool"]["ruff"]["target-version"] == f"py{lowest.replace('.', '')}"
    assert pyproject["tool"]["mypy"]["python_version"] == lowest
