"""The restorer as one object: trained folders, live and cached paths, batches."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from components import images
from components.backbones.backbone import sampled
from components.backbones.catalogue import FAMILIES, BackboneName
from components.backbones.fixed_time import is_folded
from components.encoders.dinov3 import DINOv3
from components.restorers.folder import load_restorer, save_restorer
from components.restorers.hdrface import as_cached
from components.restorers.spec import Need
from components.weights.manifest import write_manifest
from components.weights.store import bring
from tests.small_networks import OTHER, SIZE, trained


def faces(count: int) -> torch.Tensor:
    draw = np.random.default_rng(0)
    return images.to_tensor(list(draw.integers(256, size=(count, SIZE, SIZE, 3), dtype=np.uint8)))


@pytest.mark.parametrize("backbone", ["sd21", "qwen"])
def test_a_trained_folder_is_the_same_wherever_its_networks_lay(
    tmp_path: Path, networks: Path, backbone: BackboneName
) -> None:
    elsewhere = shutil.copytree(networks, tmp_path / "elsewhere")
    here, there = (
        trained(tmp_path / name, where, backbone, "text")
        for name, where in (("here", networks), ("there", elsewhere))
    )
    fingerprints = {
        json.loads((folder / "restorer.json").read_text())["fingerprint"]
        for folder in (here, there)
    }
    assert len(fingerprints) == 1


@pytest.mark.parametrize("backbone", ["sd21", "qwen"])
def test_a_loaded_restorer_is_folded_and_so_is_the_one_that_comes_first(
    tmp_path: Path, networks: Path, backbone: BackboneName
) -> None:
    restorer = load_restorer(trained(tmp_path, networks, backbone, "sdfm"))
    assert restorer.intermediate is not None
    for one in (restorer, restorer.intermediate):
        assert is_folded(one.backbone.generator)


@pytest.mark.parametrize("backbone", ["sd21", "qwen"])
def test_the_live_path_gives_what_the_cached_one_gives(
    tmp_path: Path, networks: Path, backbone: BackboneName
) -> None:
    restorer = load_restorer(trained(tmp_path, networks, backbone, "sdfm"))
    lq, ids, variants = faces(3), ["a", "b", "c"], [0, 1, 0]
    live = restorer.restore(lq, ids, variants)
    assert live.intermediate_B3HW is not None
    assert live.alpha_BHW is not None
    assert live.alpha_BHW.shape == (3, 2, 2)

    first = load_restorer(tmp_path / f"{OTHER[backbone]}-text").restore(lq, ids, variants)
    cached_png = [images.encode_png(face) for face in images.from_tensor(first.restored_B3HW)]
    sr = images.to_tensor([images.decode_png(data) for data in cached_png])
    assert torch.equal(sr, live.intermediate_B3HW)
    encoder = DINOv3(networks / "dinov3", input_size=32)
    tokens = (as_cached(encoder(sr)), as_cached(encoder(lq)))
    latent = as_cached(restorer.backbone.encode(lq))
    noise = restorer._noise(latent, ids, variants, 1.0)
    with torch.no_grad():
        restored_latent, _ = restorer.predict(latent, noise, tokens)
        restored = restorer.backbone.decode(restored_latent).clamp(0, 1)
    assert float((restored - live.restored_B3HW).abs().max()) <= 0.5 / 255 + 1e-3


def load_needs(folder: Path) -> dict[str, Need]:
    return {
        role: Need.model_validate(need)
        for role, need in json.loads((folder / "restorer.json").read_text())["needs"].items()
    }


def test_a_faces_result_depends_on_its_name_and_not_on_its_batch(
    tmp_path: Path, networks: Path
) -> None:
    restorer = load_restorer(trained(tmp_path, networks, "qwen", "text"))
    lq = faces(3)
    together = restorer.restore(lq, ["a", "b", "c"], [0, 0, 0]).restored_B3HW
    alone = restorer.restore(lq[1:2], ["b"], [0]).restored_B3HW
    between_batches = (together[1:2] - alone).abs()
    assert float(between_batches.max()) <= 1.01 / 255
    other_name = restorer.restore(lq[1:2], ["x"], [0]).restored_B3HW
    between_names = (other_name - alone).abs()
    assert float(between_names.mean()) > 10 * float(between_batches.mean())
    assert float(between_names.mean()) > 5e-4


def test_one_noise_for_all_faces_hides_their_names(tmp_path: Path, networks: Path) -> None:
    restorer = load_restorer(trained(tmp_path, networks, "qwen", "text"))
    restorer.spec = restorer.spec.model_copy(update={"noise_of": "seed"})
    lq = faces(1)
    one, other = (
        restorer.restore(lq, [name], [variant]).restored_B3HW
        for name, variant in (("a", 0), ("x", 7))
    )
    assert torch.equal(one, other)
    first, second = restorer._keys("noise", ["a", "b"], [0, 1])
    assert first == second == (42, "", 0, "noise")


def test_a_folder_says_whether_it_takes_samples_of_the_posterior(
    tmp_path: Path, networks: Path
) -> None:
    folder = trained(tmp_path, networks, "sd21", "text")
    restorer = load_restorer(folder)
    restorer.spec = restorer.spec.model_copy(update={"posterior": "sample"})
    needs = load_needs(folder)
    save_restorer(
        restorer,
        tmp_path / "again",
        needs=needs,
        licences=["none"],
        lineage={},
        weights=networks / "sd21",
    )
    restorer = load_restorer(tmp_path / "again", [networks / "sd21"])
    assert restorer.spec.posterior == "sample"
    lq = faces(2)
    keys = [(42, "a", 0, "lq posterior"), (42, "b", 1, "lq posterior")]
    latent = as_cached(sampled(restorer.backbone.moments(lq), keys))
    with torch.no_grad():
        restored = restorer.backbone.decode(restorer.predict(latent, None, None)[0]).clamp(0, 1)
    got = restorer.restore(lq, ["a", "b"], [0, 1]).restored_B3HW
    assert float((restored - got).abs().max()) <= 0.5 / 255 + 1e-3
    alone = restorer.restore(lq[1:], ["b"], [1]).restored_B3HW
    assert float((alone - got[1:]).abs().max()) <= 1.01 / 255


def test_a_trained_folder_restores_alone_from_a_store(
    tmp_path: Path, networks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = trained(tmp_path / "here", networks, "sd21", "sdfm")
    before = load_restorer(folder).restore(faces(2), ["a", "b"], [0, 0]).restored_B3HW
    place = bring(folder, tmp_path / "there" / "store")
    shutil.rmtree(tmp_path / "here")
    monkeypatch.setenv("HDRFACE_STORE", str(tmp_path / "there" / "store"))
    hidden = networks.with_name("hidden")
    networks.rename(hidden)
    try:
        after = load_restorer(place).restore(faces(2), ["a", "b"], [0, 0]).restored_B3HW
    finally:
        hidden.rename(networks)
    assert torch.equal(after, before)


def test_a_damaged_folder_is_named_before_it_restores_anything(
    tmp_path: Path, networks: Path
) -> None:
    folder = trained(tmp_path, networks, "sd21", "sdfm")
    file = folder / "fusion.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(ValueError, match=r"fusion\.safetensors"):
        load_restorer(folder)


def test_faces_of_another_size_are_refused(tmp_path: Path, networks: Path) -> None:
    restorer = load_restorer(trained(tmp_path, networks, "sd21", "text"))
    with pytest.raises(ValueError, match=r"takes faces of \(3, 32, 32\); got \(3, 16, 16\)"):
        restorer.restore(torch.zeros(1, 3, 16, 16), ["a"], [0])


@pytest.mark.parametrize("backbone", ["sd21", "qwen"])
def test_a_generator_trained_in_full_needs_no_other(
    tmp_path: Path, networks: Path, backbone: BackboneName
) -> None:
    weights = shutil.copytree(networks / backbone, tmp_path / "weights" / backbone)
    folder = trained(tmp_path, weights.parent, backbone, "text")
    before = load_restorer(folder).restore(faces(1), ["a"], [0]).restored_B3HW
    generator = FAMILIES[backbone].generator_folder
    for file in (weights / generator).iterdir():
        file.write_bytes(b"damaged")
    assert torch.equal(load_restorer(folder).restore(faces(1), ["a"], [0]).restored_B3HW, before)
    shutil.rmtree(weights / generator)
    assert torch.equal(load_restorer(folder).restore(faces(1), ["a"], [0]).restored_B3HW, before)
    brought = load_restorer(bring(folder, tmp_path / "store"))
    assert torch.equal(brought.restore(faces(1), ["a"], [0]).restored_B3HW, before)
    (weights / "vae" / "config.json").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"vae/config\.json has 7 bytes"):
        load_restorer(folder)


def test_files_in_half_precision_restore_as_the_same_numbers_in_float32(
    tmp_path: Path, networks: Path
) -> None:
    restored = []
    for name, dtype in (("half", torch.float16), ("whole", torch.float32)):
        weights = shutil.copytree(networks / "sd21", tmp_path / name / "sd21")
        for file in [*weights.rglob("diffusion*.safetensors")]:
            save_file({key: t.half().to(dtype) for key, t in load_file(file).items()}, file)
        write_manifest(
            weights, name="sd21", kind="stand-in", source="", revision=None, licence="none"
        )
        restorer = load_restorer(trained(tmp_path / name, weights.parent, "sd21", "text"))
        assert {parameter.dtype for parameter in restorer.parameters()} == {torch.float32}
        restored.append(restorer.restore(faces(1), ["a"], [0]).restored_B3HW)
    assert torch.equal(*restored)
