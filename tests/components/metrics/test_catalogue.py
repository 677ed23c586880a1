"""A metric that is not available is named, with the reason; nothing is downloaded."""

import importlib
import os
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from components import images
from components.metrics.catalogue import CATALOGUE, open_metrics
from components.metrics.full_reference import importable_clip


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make an empty folder of weights, without a network connection."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def refuse(*_: object) -> None:
        raise AssertionError("a metric reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    return tmp_path / "hub"


def test_every_learned_metric_without_weights_says_what_is_missing_and_where(hub: Path) -> None:
    learned = [name for name, entry in CATALOGUE.items() if entry.files]
    metrics, unavailable = open_metrics(learned, identity_network=None)
    assert not metrics
    assert set(unavailable) == set(learned) >= {"lpips", "dists", "topiq_fr", "musiq", "clipiqa"}
    assert f"missing under {hub}" in unavailable["lpips"]
    assert "pyiqa/LPIPS_v0.1_alex-df73285e.pth" in unavailable["lpips"]
    assert "nothing is downloaded" in unavailable["lpips"]
    assert "(244 MB, BSD-3-Clause (torchvision); https://" in unavailable["lpips"]
    assert "hdrface/one-align (16.4 GB, MIT (Q-Align)" in unavailable["qalign"]


def test_a_file_that_would_run_code_is_refused_before_pyiqa_reads_it(hub: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(hub / "ran"),)

    (hub / "pyiqa").mkdir(parents=True)
    torch.save(Evil(), hub / CATALOGUE["musiq"].files[0])
    metrics, unavailable = open_metrics(["musiq"], identity_network=None)
    assert not metrics
    assert "holds more than plain weights" in unavailable["musiq"]
    assert not (hub / "ran").exists()


def test_clip_weights_with_another_hash_are_refused_instead_of_fetched_again(hub: Path) -> None:
    (hub / "clip").mkdir(parents=True)
    (hub / "clip" / "RN50.pt").write_bytes(b"half a download")
    _, unavailable = open_metrics(["clipiqa"], identity_network=None)
    assert "RN50.pt is not the published file" in unavailable["clipiqa"]


def test_clip_needs_nothing_that_setuptools_has_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "clip"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pkg_resources", None)  # as if it were not installed
    with importable_clip():
        clip = importlib.import_module("clip")
    assert "RN50" in clip.available_models()
    assert clip.tokenize("a face").shape == (1, 77)
    assert sys.modules.get("pkg_resources") is None


def test_a_learned_metric_with_its_weights_is_computed(hub: Path) -> None:
    import pyiqa

    torch.manual_seed(0)
    network = pyiqa.create_metric("musiq", pretrained=False, device="cpu").net
    (hub / "pyiqa").mkdir(parents=True)
    torch.save(network.state_dict(), hub / CATALOGUE["musiq"].files[0])
    # pyiqa fixed its folder when it was imported, before the environment said another.
    metrics, unavailable = open_metrics(["musiq"], identity_network=None)
    assert not unavailable
    faces = images.to_tensor(
        list(np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8))
    )
    with torch.no_grad():
        expected = network(faces).reshape(-1)
    # No reference: what is given as the truth changes nothing.
    assert metrics["musiq"](faces, 1 - faces) == pytest.approx(expected.numpy(), abs=1e-4)


def test_every_metric_of_the_paper_is_known_and_a_misspelt_name_is_an_error() -> None:
    titles = {entry.title for entry in CATALOGUE.values()}
    paper = {"PSNR", "SSIM", "LPIPS", "DISTS", "TOPIQ", "CLIP-IQA", "MUSIQ", "Q-Align", "LIQE"}
    assert paper | {"Deg.", "LMD", "FID", "NIQE", "MANIQA"} == titles
    _, unavailable = open_metrics(["identity_angle"], identity_network=None)
    assert "no identity network is configured" in unavailable["identity_angle"]
    with pytest.raises(ValueError, match="no metric is called 'pnsr'; known are psnr, ssim"):
        open_metrics(["pnsr"], identity_network=None)


@pytest.mark.shared
def test_the_identity_angle_grows_with_the_damage(shared_dir: Path) -> None:
    network = shared_dir / "weights" / "mobilefacenet.onnx"
    metrics, unavailable = open_metrics(["identity_angle"], identity_network=network)
    assert not unavailable
    files = sorted((shared_dir / "faces" / "hq").glob("celebahq_*.jpg"))[:4]
    faces = [images.resize(images.decode(file.read_bytes()), 128) for file in files]
    hq = images.to_tensor(faces)
    angle = metrics["identity_angle"]
    mild, strong = (
        images.to_tensor([images.resize(images.resize(face, size), 128) for face in faces])
        for size in (48, 16)
    )
    same, mildly, strongly, others = (
        angle(one, hq) for one in (hq, mild, strong, hq.roll(1, dims=0))
    )
    assert same == pytest.approx(np.zeros(4), abs=0.1)
    assert (same < mildly).all()
    assert mildly.mean() < strongly.mean() < others.mean()
    assert (others > 60).all()
