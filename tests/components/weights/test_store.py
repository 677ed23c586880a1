"""The store: found by fingerprint, verified on opening, copied as a whole."""

import json
import os
import shutil
from pathlib import Path

import pytest

from components.stores import stores
from components.weights.manifest import seal, write_manifest
from components.weights.store import (
    bring,
    find,
    find_need,
    link,
    open_model,
    open_weights,
)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return the empty home of the test."""
    return tmp_path / "home"


def make_weights(folder: Path, name: str = "sd21") -> str:
    for part in ("vae", "unet"):
        (folder / part).mkdir(parents=True)
        (folder / part / "model.safetensors").write_bytes(f"{part} of {name}".encode())
    (folder / "prompt.safetensors").write_bytes(b"a prompt")
    return write_manifest(
        folder, name=name, kind="stand-in", source="here", revision=None, licence="Apache-2.0"
    )


def make_restorer(folder: Path, **needs: tuple[str, str]) -> str:
    folder.mkdir(parents=True)
    (folder / "fusion.safetensors").write_bytes(b"a gate")
    content = {
        "format": 2,
        "backbone": "sd21",
        "needs": {
            role: {"name": role, "fingerprint": fingerprint, "hint": hint}
            for role, (fingerprint, hint) in needs.items()
        },
    }
    (folder / "restorer.json").write_text(json.dumps(content))
    return seal(folder)


def test_opening_verifies_and_gives_the_layout(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "sd21"
    fingerprint = make_weights(folder)
    weights = open_weights(folder)
    assert (weights.fingerprint, weights.name, weights.licence) == (
        fingerprint,
        "sd21",
        "Apache-2.0",
    )
    assert weights.root == folder
    assert weights.path("unet") == folder / "unet"
    assert weights.path("prompt.safetensors").read_bytes() == b"a prompt"
    with pytest.raises(FileNotFoundError, match="hold no 'transformer', only"):
        weights.path("transformer")


def test_a_damaged_file_is_named_with_a_remedy(tmp_path: Path) -> None:
    make_weights(tmp_path / "sd21")
    file = tmp_path / "sd21" / "vae" / "model.safetensors"
    file.write_bytes(file.read_bytes()[::-1])
    with pytest.raises(
        ValueError, match=r"vae/model.safetensors has .*dvc repro --force weights@sd21"
    ):
        open_weights(tmp_path / "sd21")
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"vae/model.safetensors of .* lies in none of"):
        open_weights(tmp_path / "sd21")
    with pytest.raises(FileNotFoundError, match="run 'dvc repro weights@qwen'"):
        open_weights(tmp_path / "qwen")


def test_a_manifest_with_a_wrong_fingerprint_is_refused(tmp_path: Path) -> None:
    fingerprint = make_weights(tmp_path / "sd21")
    manifest = tmp_path / "sd21" / "manifest.json"
    manifest.write_text(manifest.read_text().replace(fingerprint, "f" * 64))
    with pytest.raises(
        ValueError, match=f"calls itself {'f' * 64}, but its files are {fingerprint}"
    ):
        open_weights(tmp_path / "sd21")


def test_a_trained_folder_is_verified_with_its_description(tmp_path: Path) -> None:
    make_restorer(tmp_path / "model")
    assert open_model(tmp_path / "model").content["backbone"] == "sd21"
    file = tmp_path / "model" / "restorer.json"
    file.write_text(file.read_text().replace("sd21", "qwen"))
    with pytest.raises(ValueError, match="calls itself"):
        open_model(tmp_path / "model")


def test_hints_come_first_then_the_named_store_then_the_home(tmp_path: Path, home: Path) -> None:
    fingerprint = make_weights(tmp_path / "hint")
    places = [
        tmp_path / "hint",
        tmp_path / "store" / fingerprint,
        home / ".cache/hdrface" / fingerprint,
    ]
    for place in places[1:]:
        shutil.copytree(places[0], place)
    for place in places:
        assert find(fingerprint, [tmp_path / "nowhere", places[0]]) == place
        shutil.rmtree(place)
    with pytest.raises(FileNotFoundError) as lost:
        find(fingerprint, [places[0]])
    assert all(str(place) in str(lost.value) for place in places)
    assert "HDRFACE_STORE" in str(lost.value)


def test_another_network_at_the_hint_is_not_taken(tmp_path: Path) -> None:
    wanted = make_weights(tmp_path / "old", "sd21")
    found = make_weights(tmp_path / "new", "qwen")
    with pytest.raises(FileNotFoundError, match=f"new is {found}"):
        find(wanted, [tmp_path / "new"])


def test_without_the_variable_the_store_is_in_the_home(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HDRFACE_STORE")
    assert stores() == [home / ".cache" / "hdrface"]


def test_published_weights_are_linked_and_the_folder_keeps_only_its_manifest(
    tmp_path: Path,
) -> None:
    """As for the hub: large files elsewhere, the text condition beside the manifest."""
    layout, folder = tmp_path / "cache", tmp_path / "data" / "sd21"
    make_weights(layout)
    folder.mkdir(parents=True)
    for name in ("manifest.json", "prompt.safetensors"):
        shutil.move(layout / name, folder / name)
    entry = link(folder, layout)
    weights = open_weights(folder)
    assert weights.root == entry
    assert (entry / "unet" / "model.safetensors").resolve() == layout / "unet" / "model.safetensors"
    assert not weights.path("prompt.safetensors").is_symlink()

    shutil.rmtree(layout)  # the cache is emptied: the links lead nowhere
    with pytest.raises(FileNotFoundError, match=r"lies in none of"):
        open_weights(folder)
    make_weights(layout)
    assert link(folder, layout) == entry
    assert open_weights(folder).fingerprint == weights.fingerprint


def test_a_trained_folder_is_copied_with_all_that_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model names weights and an intermediate restorer, which names others."""
    origin = tmp_path / "origin"
    sd21 = make_weights(origin / "data/sd21", "sd21")
    qwen = make_weights(origin / "data/qwen", "qwen")
    plain = make_restorer(origin / "models/qwen-text", weights=(qwen, "../../data/qwen"))
    model = make_restorer(
        origin / "models/sd21-sdfm",
        weights=(sd21, "../../data/sd21"),
        intermediate=(plain, "../qwen-text"),
    )
    brought = bring(origin / "models/sd21-sdfm", tmp_path / "travel")
    assert brought == tmp_path / "travel" / model
    assert sorted(p.name for p in (tmp_path / "travel").iterdir()) == sorted(
        [sd21, qwen, plain, model]
    )
    shutil.rmtree(origin)
    shutil.move(tmp_path / "travel", tmp_path / "elsewhere")
    monkeypatch.delenv("HDRFACE_STORE")

    needs = open_model(tmp_path / "elsewhere" / model).needs
    found = find_need(tmp_path / "elsewhere" / model, needs["intermediate"])
    assert found == tmp_path / "elsewhere" / plain
    deeper = find_need(found, open_model(found).needs["weights"])
    assert open_weights(deeper).name == "qwen"


def test_copying_twice_is_the_same_and_repairs_a_damaged_entry(tmp_path: Path) -> None:
    make_weights(tmp_path / "sd21")
    place = bring(tmp_path / "sd21", tmp_path / "travel")
    assert bring(tmp_path / "sd21", tmp_path / "travel") == place
    (place / "unet" / "model.safetensors").write_bytes(b"damaged")
    bring(tmp_path / "sd21", tmp_path / "travel")
    assert open_weights(place).fingerprint == place.name
    assert [p.name for p in (tmp_path / "travel").iterdir()] == [place.name]


def test_a_second_start_reads_large_files_only_if_it_is_told_to(
    tmp_path: Path, reads: list[str]
) -> None:
    weights, model = tmp_path / "sd21", tmp_path / "sd21-sdfm"
    make_weights(weights)
    make_restorer(model)
    for folder in (weights, model):
        (folder / "large.safetensors").write_bytes(bytes(1 << 20))
        os.utime(folder / "large.safetensors", (1e9, 1e9))
    write_manifest(
        weights, name="sd21", kind="stand-in", source="here", revision=None, licence="Apache-2.0"
    )
    seal(model)

    assert reads.count("large.safetensors") == 2
    open_weights(weights)
    open_model(model)
    assert reads.count("large.safetensors") == 2
    open_weights(weights, every_byte=True)
    open_model(model, every_byte=True)
    assert reads.count("large.safetensors") == 4


def make_full(folder: Path, weights: tuple[str, str]) -> str:
    """Make a trained folder that has a `unet` of its own."""
    (folder / "unet").mkdir(parents=True)
    (folder / "unet" / "model.safetensors").write_bytes(b"trained")
    (folder / "restorer.json").write_text(
        json.dumps(
            {
                "format": 2,
                "needs": {
                    "backbone": {"name": "sd21", "fingerprint": weights[0], "hint": weights[1]}
                },
            }
        )
    )
    return seal(folder)


def test_what_a_trained_folder_replaces_is_neither_read_nor_copied(tmp_path: Path) -> None:
    """And who needs those weights whole completes them, where the folder was brought before."""
    weights, store = tmp_path / "sd21", tmp_path / "travel"
    fingerprint = make_weights(weights)
    make_full(tmp_path / "full", (fingerprint, "../sd21"))
    generator = (weights / "unet" / "model.safetensors").read_bytes()
    (weights / "unet" / "model.safetensors").write_bytes(b"damaged")
    bring(tmp_path / "full", store)
    (weights / "unet" / "model.safetensors").write_bytes(generator)
    assert not (store / fingerprint / "unet").exists()
    assert open_weights(store / fingerprint, replaced=["unet"]).path("vae").is_dir()
    with pytest.raises(FileNotFoundError, match=r"unet/model\.safetensors of .* lies in none of"):
        open_weights(store / fingerprint)

    bring(weights, store)
    assert open_weights(store / fingerprint).fingerprint == fingerprint
    bring(tmp_path / "full", store)
    assert open_weights(store / fingerprint).root == store / fingerprint
    assert not list(store.rglob("*.partial"))
