"""Networks: what counts as here is what the code that loads them would find."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from components.assets import networks
from components.losses.perceptual import needed_files
from components.metrics.catalogue import CATALOGUE
from components.metrics.weight_files import WEIGHT_FILES
from components.weights import fetch
from components.weights.fetch import PublishedParams

REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the test an empty cache of the hub, of torch and of our own."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HDRFACE_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "torch" / "hub"


def published(**changes: Any) -> dict[str, Any]:
    section = {
        "id": "Qwen/Qwen-Image",
        "revision": REVISION,
        "patterns": ["vae/config.json", "vae/*.safetensors", "vae/*.index.json"],
    } | changes
    networks_section: dict[str, Any] = {
        "networks": ["qwen"],
        "qwen": {"out": "data/weights/qwen", "published": section},
    }
    return {"weights": networks_section}


def lay_out(folder: Path, *, parts: int = 2, of: int = 2) -> Path:
    """Write a published layout of which `parts` files of weights are there, `of` are named."""
    vae = folder / "vae"
    vae.mkdir(parents=True)
    (vae / "config.json").write_text("{}")
    names = [f"model-{number}.safetensors" for number in range(of)]
    index = {"weight_map": {f"layer{number}": name for number, name in enumerate(names)}}
    (vae / "model.safetensors.index.json").write_text(json.dumps(index))
    for name in names[:parts]:
        (vae / name).write_bytes(bytes(1000))
    return folder


def test_a_stand_in_is_made_and_never_missing() -> None:
    section = {"out": "data/weights/qwen", "stand_in": {"seed": 0}, "published": None}
    (asset,) = networks.weights({"weights": {"networks": ["qwen"], "qwen": section}})
    assert (asset.state, asset.which) == ("made", "data/weights/qwen")


def test_published_weights_that_are_nowhere_are_missing_with_size_licence_and_command() -> None:
    (asset,) = networks.weights(published())
    assert asset.state == "missing"
    assert asset.size == "about 57.7 GB"
    assert asset.licence == "Apache-2.0"
    assert asset.remedy == "python -m pipelines.weights qwen"
    assert networks.missing_bytes(published()) == 57.7e9


def test_a_gated_network_says_whose_licence_to_accept() -> None:
    gated = "facebook/dinov3-vitl16-pretrain-lvd1689m"
    (asset,) = networks.weights(published(id=gated))
    assert f"https://huggingface.co/{gated}" in asset.remedy
    assert "hf auth login" in asset.remedy


def test_an_unknown_licence_is_missing_too_since_the_stage_would_refuse(tmp_path: Path) -> None:
    section = published(id="somebody/network", source=lay_out(tmp_path / "layout"))
    (asset,) = networks.weights(section)
    assert asset.state == "missing"
    assert "write it as 'licence'" in asset.remedy


def test_weights_in_the_hubs_cache_are_here(tmp_path: Path) -> None:
    repository = tmp_path / "hf/models--Qwen--Qwen-Image"
    lay_out(repository / "snapshots" / REVISION)
    (asset,) = networks.weights(published())
    assert asset.state == "here"
    (repository / "snapshots" / REVISION / "vae/model-1.safetensors").unlink()
    (asset,) = networks.weights(published())
    assert asset.state == "missing"


def test_a_local_folder_is_here_only_with_all_its_parts(tmp_path: Path) -> None:
    (whole,) = networks.weights(published(source=lay_out(tmp_path / "whole")))
    assert whole.state == "here"
    (part,) = networks.weights(published(source=lay_out(tmp_path / "part", parts=1)))
    assert part.state == "missing"
    assert "model-1.safetensors, which is missing" in part.remedy
    (none,) = networks.weights(published(source=tmp_path / "nowhere"))
    assert "no such folder" in none.remedy


def test_weights_that_the_stage_fetched_are_here_until_their_files_go(tmp_path: Path) -> None:
    layout = lay_out(tmp_path / "layout")
    values = published()
    params = PublishedParams.model_validate(
        values["weights"]["qwen"]["published"] | {"source": layout}
    )
    fetch.publish(Path("data/weights/qwen"), "qwen", params)
    (asset,) = networks.weights(values)
    assert asset.state == "here"
    (layout / "vae/model-0.safetensors").unlink()  # the store links to it
    (asset,) = networks.weights(values)
    assert asset.state == "missing"


def trained(perceptual: str | None, identity: str | None) -> dict[str, Any]:
    losses = {
        "pixel": {"weight": 1.0, "range": "unit"},
        "perceptual": perceptual and {"weight": 1.0, "network": perceptual},
        "identity": identity and {"weight": 0.5, "network": identity},
    }
    section = {"backbones": ["sd21"], "sd21": {"losses": losses}}
    return {"plain": section, "train": section}


def test_losses_name_the_files_that_they_load_where_they_look(hub: Path) -> None:
    found = list(networks.losses(trained("lpips", "arcface.pth")))
    assert {asset.state for asset in found} == {"missing"}
    files = needed_files("lpips-vgg")
    assert {hub / asset.which for asset in found} - {hub / "arcface.pth"} == set(files)
    for asset in found[:2]:
        assert asset.remedy.startswith(f"curl -fL --create-dirs -o {hub / asset.which} https://")
    for file in (*files, Path("arcface.pth")):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bytes(10))
    found = list(networks.losses(trained("lpips", "arcface.pth")))
    assert {asset.state for asset in found} == {"here"}
    assert "non-commercial" in found[2].licence
    assert list(networks.losses(trained(None, None))) == []


def evaluated(*metrics: str, identity_network: str | None = None) -> dict[str, Any]:
    return {
        "evaluate": {"metrics": list(metrics), "identity_network": identity_network},
        "plain": {"backbones": []},
        "train": {"backbones": []},
    }


def test_a_metric_needs_its_files(hub: Path) -> None:
    found = list(networks.metrics(evaluated("psnr", "liqe")))
    assert [asset.which for asset in found] == ["clip/ViT-B-32.pt", "pyiqa/liqe_koniq.pt"]
    assert found[0].size == "354 MB"
    file = hub / "clip/ViT-B-32.pt"
    file.parent.mkdir(parents=True)
    file.write_bytes(bytes(10))
    first, second = networks.metrics(evaluated("psnr", "liqe"))
    assert (first.state, second.state) == ("here", "missing")


def test_what_a_validation_measures_is_listed_once() -> None:
    values = evaluated("psnr", "dists")
    values["train"] = {
        "backbones": ["sd21", "qwen"],
        "sd21": {"validation": {"metrics": ["dists", "topiq_fr"]}},
        "qwen": {"validation": None},
    }
    names = [asset.what for asset in networks.metrics(values)]
    assert names == ["metric dists", "metric dists", "metric topiq_fr"]  # two files, and one


def test_every_file_of_the_catalogue_has_a_size_a_licence_and_a_place() -> None:
    found = list(networks.metrics(evaluated(*CATALOGUE)))
    assert {"hdrface/one-align", "hdrface/resnet18_110.pth"} <= {asset.which for asset in found}
    for asset in found:
        assert asset.size
        assert asset.licence
        assert str(Path(asset.which)) in asset.remedy
        assert "https://" in asset.remedy or "it is published at" in asset.remedy


def test_the_addresses_are_those_of_pyiqa_and_torchvision() -> None:
    from pyiqa.archs import clip_model, lpips_arch
    from pyiqa.archs.inception import FID_WEIGHTS_URL
    from torchvision.models import VGG16_Weights  # type: ignore[import-untyped]

    lpips, vgg, clip, inception = (
        WEIGHT_FILES[name].source
        for name in (
            "pyiqa/LPIPS_v0.1_vgg-a78928a0.pth",
            "checkpoints/vgg16-397923af.pth",
            "clip/RN50.pt",
            "pyiqa/pt_inception-2015-12-05-6726825d.pth",
        )
    )
    assert lpips == lpips_arch.default_model_urls["0.1_vgg"]
    assert vgg == VGG16_Weights.IMAGENET1K_V1.url
    assert clip == clip_model._MODELS["RN50"]
    assert inception == FID_WEIGHTS_URL


def test_an_identity_network_is_a_file_or_a_folder_with_one(tmp_path: Path) -> None:
    values = evaluated("psnr", identity_network="pack")
    (asset,) = networks.metrics(values)
    assert asset.state == "missing"
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack/w600k_r50.onnx").write_bytes(bytes(10))
    (asset,) = networks.metrics(values)
    assert asset.state == "here"


def test_torch_looks_where_the_listing_looks(hub: Path) -> None:
    assert Path(torch.hub.get_dir()) == hub


def test_files_of_a_cluster_s_workers_are_not_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "ray://somewhere:10001")
    (asset,) = networks.metrics(evaluated("clipiqa"))
    assert asset.state == "not seen"
