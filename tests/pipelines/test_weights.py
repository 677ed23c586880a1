"""The stage `weights`: one folder a network, whole or not at all, the same bytes each time."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from components.tables import unfinished
from components.weights.store import open_weights
from pipelines.weights import WeightsParams, run

REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def _empty_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HDRFACE_STORE", str(tmp_path / "store"))


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """Return a local folder in the published layout of DINOv3."""
    folder = tmp_path / "downloads" / "dinov3"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "dinov3_vit"}')
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def section(tmp_path: Path, layout: Path | None = None) -> dict[str, Any]:
    """Return the section of `params.yaml` for published weights in a local folder."""
    published = {
        "id": "facebook/dinov3-vitl16-pretrain-lvd1689m",
        "revision": REVISION,
        "patterns": ["config.json", "model.safetensors"],
        "source": str(layout) if layout else None,
    }
    return {"out": str(tmp_path / "data" / "weights" / "dinov3"), "published": published}


def test_published_weights_leave_a_manifest_and_nothing_half_done(
    tmp_path: Path, layout: Path
) -> None:
    params = WeightsParams.model_validate(section(tmp_path, layout))
    fingerprint = run(params, "dinov3")
    assert [p.name for p in params.out.parent.iterdir()] == ["dinov3"]
    assert [p.name for p in params.out.iterdir()] == ["manifest.json"]
    weights = open_weights(params.out)
    assert weights.fingerprint == fingerprint
    assert weights.licence.startswith("DINOv3 License")
    assert weights.path("model.safetensors").read_bytes() == b"weights"


def test_a_rerun_writes_the_same_bytes_after_dvc_emptied_the_output(
    tmp_path: Path, layout: Path
) -> None:
    params = WeightsParams.model_validate(section(tmp_path, layout))
    run(params, "dinov3")
    before = (params.out / "manifest.json").read_bytes()
    shutil.rmtree(params.out)
    run(params, "dinov3")
    assert (params.out / "manifest.json").read_bytes() == before


def test_what_an_interrupted_run_left_is_thrown_away(tmp_path: Path, layout: Path) -> None:
    params = WeightsParams.model_validate(section(tmp_path, layout))
    partial = params.out.with_name("dinov3.partial")
    partial.mkdir(parents=True)
    (partial / "half.safetensors").write_bytes(b"half")
    run(params, "dinov3")
    assert [p.name for p in params.out.parent.iterdir()] == ["dinov3"]
    assert [p.name for p in params.out.iterdir()] == ["manifest.json"]


def test_a_failure_leaves_the_older_weights_alone(tmp_path: Path, layout: Path) -> None:
    params = WeightsParams.model_validate(section(tmp_path, layout))
    fingerprint = run(params, "dinov3")
    (layout / "model.safetensors").unlink()
    other = section(tmp_path, layout)
    other["published"]["revision"] = "f" * 40
    with pytest.raises(FileNotFoundError, match=r"matches 'model.safetensors'"):
        run(WeightsParams.model_validate(other), "dinov3")
    assert fingerprint in (params.out / "manifest.json").read_text()


def test_run_by_hand_it_completes_a_machine_that_has_only_the_manifest(
    tmp_path: Path, layout: Path
) -> None:
    params = WeightsParams.model_validate(section(tmp_path, layout))
    fingerprint = run(params, "dinov3")
    shutil.rmtree(tmp_path / "store")
    with pytest.raises(FileNotFoundError, match=r"run 'python -m pipelines.weights dinov3'"):
        open_weights(params.out)
    assert run(params, "dinov3") == fingerprint
    assert open_weights(params.out).fingerprint == fingerprint

    (layout / "model.safetensors").write_bytes(b"w3ights")
    with pytest.raises(ValueError, match=r"model.safetensors has SHA-256"):
        run(params, "dinov3")


def test_two_writers_do_not_meet(tmp_path: Path, layout: Path) -> None:
    params = WeightsParams.model_validate(section(tmp_path, layout))
    with (
        unfinished.lock(params.out),
        pytest.raises(unfinished.LockedError, match="is being written by"),
    ):
        run(params, "dinov3")


@pytest.mark.parametrize("change", [{"stand_in": {"seed": 1}}, {"published": None}])
def test_a_network_has_exactly_one_origin(
    tmp_path: Path, layout: Path, change: dict[str, Any]
) -> None:
    with pytest.raises(ValidationError, match="exactly one of 'stand_in' and 'published'"):
        WeightsParams.model_validate(section(tmp_path, layout) | change)


def test_a_stand_in_has_its_files_beside_the_manifest_and_the_same_bytes_each_time(
    tmp_path: Path,
) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 32, "patch_size": 16, "image_size": 32}
    manifests = []
    for place in ("a", "b"):
        values = {"out": tmp_path / place / "dinov3", "stand_in": {"seed": 3, "encoder": sizes}}
        params = WeightsParams.model_validate(values)
        fingerprint = run(params, "dinov3")
        weights = open_weights(params.out)
        assert (weights.fingerprint, weights.root) == (fingerprint, params.out)
        assert weights.manifest.kind == "stand-in"
        assert weights.manifest.facts["parameters"] > 0
        assert {"config.json", "model.safetensors"} <= weights.manifest.files.keys()
        manifests.append((params.out / "manifest.json").read_bytes())
    assert manifests[0] == manifests[1]


@pytest.mark.slow
def test_the_command_of_dvc_reads_its_section(
    tmp_path: Path, layout: Path, repository: Path
) -> None:
    sections = {"weights": {"dinov3": section(tmp_path, layout)}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(sections))
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.weights", "dinov3"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(repository), "HDRFACE_STORE": str(tmp_path / "store")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "weights dinov3:" in done.stderr
    assert open_weights(tmp_path / "data" / "weights" / "dinov3").name == "dinov3"
