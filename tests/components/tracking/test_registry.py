"""Aliases and the list of champions, in a real MLflow; empty versions are enough for that."""

import shutil
from pathlib import Path

import pytest

from components.tracking import manual
from components.tracking.registry import Champions, Registry, find
from tests.mlflow_database import KillAfter, Killed


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_database: Path) -> Registry:
    """Make a registered model with four versions and no champion."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    registry = Registry("hdrface")
    registry._client.create_registered_model("hdrface")
    for _ in range(4):
        registry._client.create_model_version("hdrface", f"file://{tmp_path}")
    return registry


def test_champions_are_remembered_in_order(registry: Registry) -> None:
    assert registry.champions() == Champions(None, None, ())
    for number in ("1", "2", "3", "3"):
        registry.crown(number)
    assert registry.champions() == Champions("3", None, ("1", "2"))
    assert registry.uncrown() == "2"
    assert registry.uncrown() == "1"
    with pytest.raises(ValueError, match="hdrface had no champion before version 1"):
        registry.uncrown()
    assert registry.champions() == Champions("1", None, ())


def test_rollbacks_go_further_back_and_never_in_a_circle(registry: Registry) -> None:
    for number in ("1", "2", "1", "3"):
        registry.crown(number)
    assert [registry.uncrown() for _ in range(3)] == ["1", "2", "1"]


def test_a_challenger_that_becomes_champion_is_no_challenger_any_more(registry: Registry) -> None:
    registry.crown("1")
    registry.challenge("2")
    assert registry.champions() == Champions("1", "2", ())
    registry.crown("2")
    assert registry.champions() == Champions("2", None, ("1",))


def test_killed_at_any_write_there_is_always_a_champion_and_the_list_is_right(
    registry: Registry, kill_after: KillAfter
) -> None:
    registry.crown("1")
    for number in (1, 2, 3):
        try:
            with kill_after(number):
                registry.crown("2")
        except Killed:
            assert registry.champions() in (
                Champions("1", None, ()),
                Champions("2", None, ("1",)),
            )
    assert registry.champions() == Champions("2", None, ("1",))
    with pytest.raises(Killed), kill_after(1):
        registry.uncrown()
    assert registry.champions() == Champions("1", None, ())
    registry.crown("3")
    assert registry.champions() == Champions("3", None, ("1",))


def test_a_champion_from_mlflows_own_page_is_remembered_too(registry: Registry) -> None:
    registry.crown("1")
    registry._client.set_registered_model_alias("hdrface", "champion", "4")
    registry.crown("2")
    assert registry.champions() == Champions("2", None, ("1", "4"))
    registry._client.delete_model_version("hdrface", "4")
    with pytest.raises(ValueError, match="hdrface has no version 4 at sqlite"):
        registry.uncrown()
    assert registry.champions().now == "2"


def test_a_version_is_promoted_by_number_or_alias(registry: Registry) -> None:
    registry.challenge("2")
    assert manual.promote("hdrface/1") == "hdrface/1 is the champion"
    assert manual.promote("models:/hdrface@challenger") == (
        "hdrface/2 is the champion in place of version 1"
    )
    assert manual.promote("hdrface/2") == "hdrface/2 is the champion already"
    assert registry.version("1").tags["hdrface.replaced_by_hand"] == "true"
    manual.rollback("hdrface")
    assert registry.version("1").tags["hdrface.replaced_by_hand"] == "false"
    assert registry.version("2").tags["hdrface.replaced_by_hand"] == "true"


@pytest.mark.parametrize("reference", ["hdrface", "hdrface/", "hdrface@", "models:/a/b/1", ""])
def test_a_reference_that_names_no_version_is_refused(reference: str) -> None:
    with pytest.raises(ValueError, match=r"give NAME/VERSION or NAME@ALIAS"):
        find(reference)


def test_an_unknown_version_is_refused_with_the_known_ones(registry: Registry) -> None:
    registry.challenge("2")
    with pytest.raises(ValueError, match=r"hdrface has no @champion at .*there is @challenger"):
        find("hdrface@champion")
    with pytest.raises(ValueError, match=r"hdrface has no version 9 at sqlite.*dvc repro register"):
        find("hdrface/9")
    with pytest.raises(ValueError, match="other has no version 1 at sqlite"):
        find("other/1")
    with pytest.raises(ValueError, match=r"other has no @champion at .*there is no alias"):
        find("other@champion")
    with pytest.raises(ValueError, match="version 1 of hdrface was not registered by this"):
        registry.fetch(registry.version("1"))
