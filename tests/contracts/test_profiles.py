"""The profiles of `conf/`: complete, valid, alike in their keys, and the same for DVC as for us."""

import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.config import Config
from dvc.utils.hydra import compose_and_dump

from components import profiles
from components.params import read
from pipelines.commands import config

REPOSITORY = Path(__file__).parents[2]
PROFILES = ["one-gpu", "paper-qwen", "paper-sd21", "smoke", "tiny"]


def undeclared(base: Any, composed: Any, prefix: str = "") -> Iterator[str]:
    """Give the keys of a profile that the base does not have; below `???` a profile decides."""
    if isinstance(base, dict) and isinstance(composed, dict):
        yield from (f"{prefix}{key}" for key in composed.keys() - base.keys())
        for key in composed.keys() & base.keys():
            yield from undeclared(base[key], composed[key], f"{prefix}{key}.")


@pytest.fixture
def in_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)


@pytest.mark.usefixtures("in_repository")
def test_these_are_the_profiles() -> None:
    assert profiles.profiles() == PROFILES


@pytest.mark.usefixtures("in_repository")
@pytest.mark.parametrize("profile", PROFILES)
def test_every_section_of_a_profile_is_valid(profile: str) -> None:
    config.check_file(profile)


def test_the_committed_parameters_are_the_tiny_profile(tmp_path: Path) -> None:
    """Of the last commit, both: what a user has set up in the working tree fails no test."""
    archive = tmp_path / "committed.zip"
    git = ["git", "archive", "--output", str(archive), "HEAD", "conf", "params.yaml"]
    if subprocess.run(git, cwd=REPOSITORY, capture_output=True, check=False).returncode:
        pytest.skip("needs the project's git repository")
    with zipfile.ZipFile(archive) as committed:
        committed.extractall(tmp_path)
    composed = profiles.compose("tiny", conf=tmp_path / "conf")
    parameters = (tmp_path / "params.yaml").read_text()
    assert parameters.endswith(composed)
    assert all(line.startswith("#") for line in parameters.removesuffix(composed).splitlines())


@pytest.mark.usefixtures("in_repository")
@pytest.mark.parametrize("profile", PROFILES)
def test_dvc_composes_the_same_parameters(profile: str, tmp_path: Path) -> None:
    settings = Config(REPOSITORY / ".dvc", validate=True)["hydra"]
    assert settings["enabled"]
    file = tmp_path / "params.yaml"
    conf = str(REPOSITORY / settings["config_dir"])
    overrides = [f"profile={profile}", "faces.size=128"]
    compose_and_dump(file, conf, None, settings["config_name"], str(REPOSITORY), overrides)
    by_dvc = file.read_text()
    profiles.use(profile, ["faces.size=128"], file=file)
    written = file.read_text()
    assert read(file)["profile"] == profile
    assert written.endswith(by_dvc)
    assert all(line.startswith("#") for line in written.removesuffix(by_dvc).splitlines())


@pytest.mark.usefixtures("in_repository")
@pytest.mark.parametrize("profile", PROFILES)
def test_the_base_and_the_families_declare_every_key(profile: str) -> None:
    base = yaml.safe_load(Path("conf/base.yaml").read_text())
    for family in Path("conf/backbone").glob("*.yaml"):
        for section, values in yaml.safe_load(family.read_text()).items():
            base[section] = {**base.get(section, {}), **values}
    composed = yaml.safe_load(profiles.compose(profile))
    assert not set(undeclared(base, composed))
