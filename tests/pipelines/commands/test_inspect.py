"""What `inspect` says of trained folders and weights, sound or not."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from components.weights.manifest import seal, write_manifest
from pipelines.commands.inspect import contents, inspect


@pytest.fixture(autouse=True)
def _empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("HDRFACE_STORE", raising=False)


def make_weights(folder: Path, name: str) -> str:
    for part, shape in (("vae", (3, 5)), ("unet", (4, 7))):
        (folder / part).mkdir(parents=True)
        save_file({"w": torch.zeros(shape)}, folder / part / "model.safetensors")
        save_file({"w": torch.zeros(2)}, folder / part / "second.safetensors")
    return write_manifest(
        folder,
        name=name,
        kind="stand-in",
        source="here",
        revision=None,
        licence="Apache-2.0",
        facts={"reconstruction_psnr": 27.5},
    )


def make_restorer(folder: Path, backbone: str, **needs: tuple[Path, str]) -> str:
    folder.mkdir(parents=True)
    save_file({"norm.weight": torch.zeros(6)}, folder / "fusion.safetensors")
    content = {
        "format": 2,
        "backbone": backbone,
        "condition": "sdfm",
        "size": 64,
        "needs": {
            role: {"name": place.name, "fingerprint": fingerprint, "hint": str(place)}
            for role, (place, fingerprint) in needs.items()
        },
        "licences": ["Apache-2.0", "DINOv3 License"],
        "lineage": {"git": {"commit": "abc123", "dirty": False}, "inputs": {"pairs": "f00"}},
    }
    (folder / "restorer.json").write_text(json.dumps(content))
    return seal(folder)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return a trained folder with weights and an intermediate restorer that needs others."""
    places = {name: tmp_path / "weights" / name for name in ("sd21", "qwen")}
    fingerprints = {name: make_weights(place, name) for name, place in places.items()}
    plain = tmp_path / "models" / "qwen-text"
    plain_fingerprint = make_restorer(plain, "qwen", weights=(places["qwen"], fingerprints["qwen"]))
    folder = tmp_path / "models" / "sd21-sdfm"
    make_restorer(
        folder,
        "sd21",
        weights=(places["sd21"], fingerprints["sd21"]),
        intermediate=(plain, plain_fingerprint),
    )
    return folder


def test_a_trained_folder_tells_all_of_itself(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inspect(model, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["what"] == "trained restorer"
    assert found["wrong"] is None
    assert found["settings"] == {"backbone": "sd21", "condition": "sdfm", "size": 64}
    assert found["parameters"] == {"fusion": 6}
    assert found["licences"] == ["Apache-2.0", "DINOv3 License"]
    assert found["lineage"]["git"]["commit"] == "abc123"
    roles = {need["role"] for need in found["needs"]}
    assert roles == {"weights", "intermediate", "intermediate.weights"}
    assert all(need["found"] for need in found["needs"])


def test_what_is_named_but_not_here_is_shown_with_the_places_tried(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "weights" / "qwen" / "manifest.json").unlink()
    missing = [need for need in contents(model)["needs"] if need["found"] is None]
    assert [need["role"] for need in missing] == ["intermediate.weights"]
    assert str(tmp_path / "weights" / "qwen") in missing[0]["why"]
    inspect(model)
    shown = capsys.readouterr().out
    assert "not found" in shown
    assert "HDRFACE_STORE" in shown


def test_weights_tell_their_origin_size_and_facts(tmp_path: Path) -> None:
    fingerprint = make_weights(tmp_path / "sd21", "sd21")
    found = contents(tmp_path / "sd21")
    assert found["fingerprint"] == fingerprint
    assert found["settings"] == {
        "name": "sd21",
        "kind": "stand-in",
        "source": "here",
        "revision": None,
    }
    assert found["parameters"] == {"unet": 30, "vae": 17}
    assert found["facts"] == {"reconstruction_psnr": 27.5}


def test_damage_is_shown_not_hidden(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file({"norm.weight": torch.ones(6)}, model / "fusion.safetensors")
    assert "fusion.safetensors has SHA-256" in str(contents(model)["wrong"])
    inspect(model)
    assert "NO:" in capsys.readouterr().out


def test_the_table_shows_values_with_brackets_as_they_are(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    described = json.loads((model / "restorer.json").read_text())
    described["note"] = "[bold]kept[/bold]"
    (model / "restorer.json").write_text(json.dumps(described))
    seal(model)
    inspect(model)
    shown = capsys.readouterr().out
    for part in ("[bold]kept[/bold]", "sd21", "sdfm", "yes, every hash is right", "fusion: 6"):
        assert part in shown


def test_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no manifest.json or restorer.json"):
        inspect(tmp_path)
