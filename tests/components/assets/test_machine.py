"""Disk and GPUs: estimates against numbers that were worked out by hand."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from components import profiles
from components.assets import machine


@pytest.fixture(scope="module")
def paper(repository: Path) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load(
        profiles.compose("paper-qwen", conf=repository / "conf")
    )
    return values


def test_the_tokens_of_ffhq_take_what_the_method_counts(paper: dict[str, Any]) -> None:
    """METHOD, section 8: 0.41 MB for one side, 29 GB for one side of FFHQ."""
    one_side = machine._token_bytes(paper, "qwen")
    assert one_side == 201 * 1024 * 2
    assert 70_000 * one_side == pytest.approx(29e9, rel=0.01)


def test_tables_are_counted_row_by_row(
    paper: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sizes = machine.tables(paper, 70_000)
    png = 512 * 512 * 2
    train = 70_000 - 3_000
    assert sizes["data/faces"] == 70_000 * png
    assert sizes["data/pairs"] == pytest.approx(70_000 * 2 * png)
    assert sizes["data/intermediates/qwen"] == pytest.approx(train * png, rel=1e-4)
    latents = 2 * 16 * 64 * 64 * 2
    row = 2 * 201 * 1024 * 2 + latents  # of two pictures
    assert sizes["data/features/qwen"] == pytest.approx(train * 2 * row, rel=1e-4)
    narrow = {"features": {"qwen": {**paper["features"]["qwen"], "tokens": "int8"}}}
    row = 2 * 201 * (1024 + 2 * 32) + latents  # a float16 scale for each 32 channels
    sizes = machine.tables({**paper, **narrow}, 70_000)
    assert sizes["data/features/qwen"] == pytest.approx(train * 2 * row, rel=1e-4)


def test_a_table_that_is_there_needs_no_room(
    paper: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/faces").mkdir(parents=True)
    assert "data/faces" not in machine.tables(paper, 70_000)


def test_a_network_that_trains_in_full_needs_its_moments_and_two_checkpoints(
    paper: dict[str, Any],
) -> None:
    results, checkpoints = machine.trainings(paper)
    assert results == 20.4e9 * 4  # SD 2.1 trains in LoRA layers
    assert checkpoints == (20.4e9 + 1.4e9) * (4 + 8) * 2


def test_a_disk_that_is_too_small_says_how_much_to_free(
    paper: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    faces = {**paper["faces"], "source": "samples"}  # a billion drawn faces fit nowhere
    values = {**paper, "faces": faces, "samples": {"out": "samples", "count": 10**9}}
    found = list(machine.disk(values))
    assert found[0].state == "missing"
    assert "more on the disk of" in found[0].remedy
    monkeypatch.setenv("HDRFACE_ROOT", str(tmp_path))
    assert next(machine.disk(values)).state == "not seen"


def test_gpus_are_those_of_the_widest_stage(
    paper: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (asset,) = machine.gpus(paper)
    assert asset.which.startswith("2 at once (plain, intermediates, features, train, evaluate)")
    has_two = torch.cuda.device_count() >= 2
    assert asset.state == ("here" if has_two else "missing")
    monkeypatch.setenv("RAY_ADDRESS", "ray://somewhere:10001")
    (asset,) = machine.gpus(paper)
    assert asset.state == "not seen"


def test_a_profile_without_gpus_lists_none(repository: Path) -> None:
    values = yaml.safe_load(profiles.compose("tiny", conf=repository / "conf"))
    assert list(machine.gpus(values)) == []


def test_dvc_keeps_a_second_copy_unless_it_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("[core]\n    analytics = false\n")
    assert not machine._dvc_links()
    (tmp_path / ".dvc/config.local").write_text("[cache]\n    type = hardlink,symlink\n")
    assert machine._dvc_links()
