"""Manifests: the fingerprint depends only on content, and every damage is named."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.weights.manifest import (
    Description,
    Manifest,
    check,
    records_of,
    seal,
    write_manifest,
)


def make_weights(
    folder: Path, name: str = "sd21", source: str = "stand-in", licence: str = "Apache-2.0"
) -> str:
    """Write two files and a manifest; return the fingerprint."""
    (folder / "unet").mkdir(parents=True, exist_ok=True)
    (folder / "unet" / "config.json").write_text('{"width": 4}')
    (folder / "unet" / "model.safetensors").write_bytes(b"weights of a network")
    return write_manifest(
        folder,
        name=name,
        kind="stand-in",
        source=source,
        revision=None,
        licence=licence,
        facts={"reconstruction_psnr": 27.5},
    )


def make_restorer(folder: Path, **changes: object) -> str:
    """Write a sealed trained folder that needs weights; return the fingerprint."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "fusion.safetensors").write_bytes(b"a gate")
    content = {
        "format": 2,
        "backbone": "sd21",
        "condition": "sdfm",
        "size": 64,
        "seed": 42,
        "needs": {"weights": {"name": "sd21", "fingerprint": "1" * 64, "hint": "../weights/sd21"}},
        "licences": ["Apache-2.0"],
        "lineage": {"git": {"commit": "abc", "dirty": False}},
    }
    (folder / "restorer.json").write_text(json.dumps({**content, **changes}))
    return seal(folder)


def test_the_same_content_has_the_same_bytes_and_fingerprint_anywhere(tmp_path: Path) -> None:
    first, second = make_weights(tmp_path / "a"), make_weights(tmp_path / "b")
    assert first == second
    manifests = [(tmp_path / folder / "manifest.json").read_bytes() for folder in "ab"]
    assert manifests[0] == manifests[1]
    assert Manifest.read(tmp_path / "a").facts == {"reconstruction_psnr": 27.5}


def test_the_source_is_not_part_of_the_fingerprint(tmp_path: Path) -> None:
    fingerprint = make_weights(tmp_path / "a")
    assert make_weights(tmp_path / "a", source="elsewhere", licence="MIT") == fingerprint
    assert make_weights(tmp_path / "a", name="qwen") != fingerprint


@settings(max_examples=40, deadline=None)
@given(
    files=st.dictionaries(
        st.from_regex(r"[a-z]{1,4}(/[a-z]{1,4}\.json)?", fullmatch=True).map(
            lambda name: name if "." in name else name + ".bin"
        ),
        st.binary(max_size=20),
        min_size=1,
        max_size=4,
    ),
    data=st.data(),
)
def test_any_changed_byte_changes_the_fingerprint(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("weights")
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    fingerprint = write_manifest(
        folder, name="n", kind="stand-in", source="s", revision=None, licence="l"
    )
    assert Description.read(folder).fingerprint == fingerprint
    changed = data.draw(st.sampled_from(sorted(files)))
    (folder / changed).write_bytes(files[changed] + b"x")
    again = write_manifest(
        folder, name="n", kind="stand-in", source="s", revision=None, licence="l"
    )
    assert again != fingerprint


def test_the_first_wrong_file_is_named(tmp_path: Path) -> None:
    make_weights(tmp_path)
    files = Manifest.read(tmp_path).files
    check(tmp_path, files, remedy="-")
    wrong = tmp_path / "unet" / "model.safetensors"
    wrong.write_bytes(b"weights of a netw0rk")
    with pytest.raises(ValueError, match=r"model.safetensors has SHA-256 .* expected: do this"):
        check(tmp_path, files, remedy="do this")
    wrong.write_bytes(b"cut")
    with pytest.raises(ValueError, match=r"model.safetensors has 3 bytes, 20 expected: do this"):
        check(tmp_path, files, remedy="do this")
    wrong.unlink()
    with pytest.raises(FileNotFoundError, match=r"model.safetensors is missing: do this"):
        check(tmp_path, files, remedy="do this")


def test_sealing_twice_changes_nothing(tmp_path: Path) -> None:
    fingerprint = make_restorer(tmp_path)
    sealed = (tmp_path / "restorer.json").read_bytes()
    assert seal(tmp_path) == fingerprint
    assert (tmp_path / "restorer.json").read_bytes() == sealed
    assert list(Description.read(tmp_path).files) == ["fusion.safetensors"]


def test_history_and_hints_are_not_part_of_a_restorer(tmp_path: Path) -> None:
    fingerprint = make_restorer(tmp_path / "a")
    moved = {"weights": {"name": "sd21", "fingerprint": "1" * 64, "hint": "/elsewhere"}}
    assert make_restorer(tmp_path / "b", lineage={"git": None}, needs=moved) == fingerprint
    other = {"weights": {"name": "sd21", "fingerprint": "2" * 64, "hint": "../weights/sd21"}}
    assert make_restorer(tmp_path / "c", needs=other) != fingerprint
    assert make_restorer(tmp_path / "d", size=128) != fingerprint


@pytest.mark.parametrize("name", ["/etc/passwd", "../secret", "unet/../../secret", "a\\b"])
def test_a_file_outside_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    make_weights(tmp_path)
    content = json.loads((tmp_path / "manifest.json").read_text())
    content["files"] = {name: {"bytes": 1, "sha256": "0" * 64}}
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="lies outside its folder"):
        Description.read(tmp_path)


def test_a_file_that_is_not_a_description_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no such folder"):
        Manifest.read(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match=r"holds no manifest.json or restorer.json"):
        Description.read(tmp_path)
    (tmp_path / "restorer.json").write_text('{"backbone": "sd21"')
    with pytest.raises(ValueError, match=r"restorer.json is not the description"):
        Description.read(tmp_path)


def test_records_leave_out_descriptions_and_follow_links(tmp_path: Path) -> None:
    make_weights(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "linked").symlink_to(tmp_path / "a" / "unet" / "model.safetensors")
    assert list(records_of(tmp_path / "a")) == ["unet/config.json", "unet/model.safetensors"]
    assert records_of(tmp_path / "b")["linked"].bytes == 20


def test_a_folder_of_the_old_format_is_refused_by_name(tmp_path: Path) -> None:
    make_weights(tmp_path)
    file = tmp_path / "manifest.json"
    old = json.loads(file.read_bytes())
    old["identity"] = old.pop("fingerprint")
    file.write_text(json.dumps({**old, "format": 1}))
    with pytest.raises(ValueError, match=r"manifest.json has format 1, this version reads 2: make"):
        Description.read(tmp_path)
