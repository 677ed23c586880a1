"""How a machine's packages differ from a lock."""

from importlib import metadata
from pathlib import Path

import pytest

from components.jobs import packages


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a project that needs three packages, on a machine that has two of them, and another."""
    installed = {"here": "1.0", "built": "2.0+cu130", "tool": "3.0"}
    for name, version in installed.items():
        folder = tmp_path / f"site/{name}-{version}.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert metadata.version("here") == "1.0"
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "x"\ndependencies = ["Here>=1", "built", "absent[s3]"]\n'
    )
    return tmp_path


def lock(project: Path, *lines: str) -> list[str]:
    hashed = "".join(f"{line} \\\n    --hash=sha256:{'0' * 64}\n" for line in lines)
    (project / packages.LOCK).write_text(hashed)
    return packages.differences(project / packages.LOCK)


def test_nothing_is_installed_if_the_versions_agree(project: Path) -> None:
    assert lock(project, "here==1.0", "built==2.0", "tool==3.0") == []


def test_a_package_for_developers_may_be_missing_but_not_differ(project: Path) -> None:
    linter = "linter==1.0"
    assert lock(project, "here==1.0", linter) == []
    assert lock(project, "here==1.1", "tool==3.1", linter) == ["here==1.1", "tool==3.1"]


def test_a_package_that_the_project_names_must_be_there(project: Path) -> None:
    elsewhere = "absent==5.0 ; sys_platform == 'nowhere'"
    assert lock(project, "absent==4.0 ; python_version >= '3.11'") == ["absent==4.0"]
    assert lock(project, elsewhere) == []


def test_a_folder_without_a_lock_needs_nothing(project: Path) -> None:
    assert packages.differences(project / packages.LOCK) == []
