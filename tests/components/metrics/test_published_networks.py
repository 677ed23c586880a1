"""Metrics on published weights where they lie here, and on random ones elsewhere."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
import torchvision  # type: ignore[import-untyped]
from PIL import Image
from scipy.ndimage import correlate
from scipy.special import gamma
from skimage.data import astronaut
from torch.nn import functional as F

from components import images
from components.hashes import sha256_of
from components.metrics.catalogue import open_metrics
from components.metrics.full_reference import importable_clip
from components.metrics.weight_files import CLIP_SHA256


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for folder in ("pyiqa", "checkpoints"):
        (tmp_path / "hub" / folder).mkdir(parents=True)
    return tmp_path / "hub"


@pytest.mark.shared
def test_lpips_with_its_published_heads_equals_its_formula(hub: Path, shared_dir: Path) -> None:
    torch.manual_seed(0)
    alexnet = torchvision.models.alexnet().eval()
    weights = alexnet.state_dict()
    for key in [key for key in weights if key.startswith("classifier")]:  # 230 MB that nothing uses
        weights[key] = torch.zeros(1).expand(weights[key].shape)
    torch.save(weights, hub / "checkpoints/alexnet-owt-7be5be79.pth")
    heads = shared_dir / "weights/lpips_v0.1_alex.pth"
    (hub / "pyiqa/LPIPS_v0.1_alex-df73285e.pth").symlink_to(heads)
    metrics, unavailable = open_metrics(["lpips"], identity_network=None)
    assert not unavailable

    hq = astronaut()[0:96, 150:246]
    one, other = (
        images.to_tensor([images.resize(images.resize(hq, 24), 96)]),
        images.to_tensor([hq]),
    )
    linear = torch.load(heads, map_location="cpu", weights_only=True)
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])

    def layers(picture: torch.Tensor) -> list[torch.Tensor]:
        found = []
        value = (2 * picture - 1 - shift[:, None, None]) / scale[:, None, None]
        for place, layer in enumerate(alexnet.features):
            value = layer(value)
            if place in (1, 4, 7, 9, 11):  # after each ReLU
                found.append(value / (value.pow(2).sum(1, keepdim=True).sqrt() + 1e-10))
        return found

    with torch.no_grad():
        expected = sum(
            float(F.conv2d((a - b) ** 2, linear[f"lin{i}.model.1.weight"]).mean())
            for i, (a, b) in enumerate(zip(layers(one), layers(other), strict=True))
        )
    assert metrics["lpips"](one, other) == pytest.approx([expected], rel=1e-4)


def asymmetric(block: np.ndarray) -> tuple[float, float, float]:
    """Fit a generalised Gaussian with two widths, by its moments (Lasmar et al.)."""
    shapes = np.arange(0.2, 10.001, 0.001)
    table = gamma(2 / shapes) ** 2 / (gamma(1 / shapes) * gamma(3 / shapes))
    left = np.sqrt((block[block < 0] ** 2).mean())
    right = np.sqrt((block[block > 0] ** 2).mean())
    ratio = left / right
    r = np.abs(block).mean() ** 2 / (block**2).mean()
    wanted = r * (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
    shape = shapes[((table - wanted) ** 2).argmin()]
    width = np.sqrt(gamma(1 / shape) / gamma(3 / shape))
    return shape, left * width, right * width


def features(block: np.ndarray) -> list[float]:
    shape, left, right = asymmetric(block)
    found = [shape, (left + right) / 2]
    for shift in ((0, 1), (1, 0), (1, 1), (1, -1)):
        shape, left, right = asymmetric(block * np.roll(block, shift, axis=(0, 1)))
        mean = (right - left) * gamma(2 / shape) / gamma(1 / shape)
        found += [shape, mean, left, right]
    return found


@pytest.mark.shared
def test_niqe_with_its_published_parameters_equals_its_formula(hub: Path, shared_dir: Path) -> None:
    with np.load(shared_dir / "weights/niqe_pris_params.npz") as published:
        mean, covariance = published["mu_pris_param"], published["cov_pris_param"]
        window = published["gaussian_window"]
    scipy.io.savemat(
        hub / "pyiqa/niqe_modelparameters.mat", {"mu_prisparam": mean, "cov_prisparam": covariance}
    )
    metrics, unavailable = open_metrics(["niqe"], identity_network=None)
    assert not unavailable
    face = astronaut()[0:200, 100:300]
    luma = np.round(face.astype(np.float64) @ (0.299, 0.587, 0.114))[:192, :192]
    rows = []
    for side in (96, 48):
        mu = correlate(luma, window, mode="nearest")
        sigma = np.sqrt(np.abs(correlate(luma**2, window, mode="nearest") - mu**2))
        whitened = (luma - mu) / (sigma + 1)
        places = [(y, x) for x in (0, side) for y in (0, side)]
        rows.append([features(whitened[y : y + side, x : x + side]) for y, x in places])
        luma = halved(luma)
    table = np.concatenate(rows, axis=1)
    inverse = np.linalg.pinv((covariance + np.cov(table, rowvar=False)) / 2)
    offset = mean.ravel() - table.mean(axis=0)
    expected = float(np.sqrt(offset @ inverse @ offset))
    small = images.to_tensor([images.resize(face, 64)])
    assert metrics["niqe"](images.to_tensor([face]), None) == pytest.approx([expected], rel=1e-2)
    assert np.isnan(metrics["niqe"](small, None)).all()


def halved(luma: np.ndarray) -> np.ndarray:
    """Shrink to half as MATLAB's imresize does: bicubic, twice as wide, mirrored at the border."""
    distance = np.abs(np.arange(-3.5, 4) / 2)
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    taps = np.where(distance <= 1, near, np.where(distance <= 2, far, 0))
    taps /= taps.sum()
    for axis in (0, 1):
        padding = [(3, 4) if one == axis else (0, 0) for one in (0, 1)]
        wide = np.moveaxis(np.pad(luma, padding, mode="symmetric"), axis, 0)
        shrunk = [
            (taps[:, None] * wide[2 * i : 2 * i + 8]).sum(axis=0) for i in range(len(wide) // 2 - 3)
        ]
        luma = np.moveaxis(np.array(shrunk), 0, axis)
    return luma


def test_maniqa_needs_no_other_file_than_its_checkpoint(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import timm
    from pyiqa.archs import maniqa_arch
    from pyiqa.default_model_configs import DEFAULT_CONFIGS

    small = {"embed_dim": 24, "num_heads": [2, 2], "dim_mlp": 24, "test_sample": 1}
    options = {**DEFAULT_CONFIGS["maniqa"]["metric_opts"], **small}
    monkeypatch.setitem(DEFAULT_CONFIGS["maniqa"], "metric_opts", options)
    real = timm.create_model

    def tiny(name: str, *, pretrained: bool) -> Any:
        assert not pretrained
        return real(name, pretrained=False, embed_dim=24, num_heads=2)

    monkeypatch.setattr(timm, "create_model", tiny)
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            maniqa_arch.timm, "create_model", lambda name, **_: tiny(name, pretrained=False)
        )
        network = maniqa_arch.MANIQA(
            **{key: value for key, value in options.items() if key != "type"}, pretrained=False
        ).eval()
    torch.save(network.state_dict(), hub / "pyiqa/ckpt_koniq10k.pt")
    metrics, unavailable = open_metrics(["maniqa"], identity_network=None)
    assert not unavailable
    faces = images.to_tensor([astronaut()[0:240, 120:360]])
    with torch.no_grad():
        expected = float(network(faces))
    assert metrics["maniqa"](faces, None) == pytest.approx([expected], abs=1e-5)


def test_dists_gives_the_score_of_pyiqas_own_call(hub: Path) -> None:
    from pyiqa.archs import dists_arch

    torch.manual_seed(0)
    vgg = torchvision.models.vgg16(num_classes=1, init_weights=False)
    weights = vgg.state_dict()
    shapes = {0: (4096, 25088), 3: (4096, 4096), 6: (1000, 4096)}
    for place, (after, before) in shapes.items():  # 500 MB that nothing uses
        weights[f"classifier.{place}.weight"] = torch.zeros(1).expand(after, before)
        weights[f"classifier.{place}.bias"] = torch.zeros(1).expand(after)
    torch.save(weights, hub / "checkpoints/vgg16-397923af.pth")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dists_arch.models, "vgg16", lambda **_: vgg)
        network = dists_arch.DISTS(pretrained=False).eval()
    heads = {name: torch.rand(network.state_dict()[name].shape) for name in ("alpha", "beta")}
    network.load_state_dict(heads, strict=False)
    torch.save(heads, hub / "pyiqa/DISTS_weights-f5e65c96.pth")
    metrics, unavailable = open_metrics(["dists"], identity_network=None)
    assert not unavailable
    one, other = degraded_and_true(96)
    with torch.no_grad():
        expected = float(network(one, other))
    assert metrics["dists"](one, other) == pytest.approx([expected], abs=1e-5)
    assert expected > 1e-3


def test_topiq_gives_the_score_of_pyiqas_own_call(hub: Path) -> None:
    from pyiqa.archs.topiq_arch import CFANet

    torch.manual_seed(0)
    network = CFANet(
        "resnet50", "cfanet_fr_kadid_res50", use_ref=True, backbone_pretrain=False, pretrained=False
    ).eval()
    weights = network.state_dict()
    torch.save({"params": weights}, hub / "pyiqa/cfanet_fr_kadid_res50-2c4cc61d.pth")
    metrics, unavailable = open_metrics(["topiq_fr"], identity_network=None)
    assert not unavailable
    one, other = degraded_and_true(128)
    with torch.no_grad():
        expected, exchanged = float(network(one, other)), float(network(other, one))
    assert metrics["topiq_fr"](one, other) == pytest.approx([expected], rel=1e-4)
    assert exchanged != pytest.approx(expected, rel=1e-3)


def small_clip(vision: dict[str, Any]) -> Any:
    """Return a CLIP with random weights: pyiqa's class, with its real vocabulary, narrow."""
    from pyiqa.archs.clip_model import CLIP

    torch.manual_seed(0)
    text = {"transformer_width": 64, "transformer_heads": 1, "transformer_layers": 1}
    return CLIP(32, 224, **vision, context_length=77, vocab_size=49408, **text).eval()


def put_clip(hub: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Put a file there that passes for a published one; it is not read."""
    (hub / "clip").mkdir()
    (hub / name).write_bytes(b"clip")
    monkeypatch.setitem(CLIP_SHA256, name, sha256_of(hub / name))


def test_clip_iqa_gives_the_score_of_pyiqas_own_call(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with importable_clip():
        from pyiqa.archs import clipiqa_arch
    clip = small_clip({"vision_layers": (1, 1, 1, 1), "vision_width": 8, "vision_patch_size": None})
    monkeypatch.setattr(clipiqa_arch, "load", lambda *_: clip)
    put_clip(hub, monkeypatch, "clip/RN50.pt")
    metrics, unavailable = open_metrics(["clipiqa"], identity_network=None)
    assert not unavailable
    one, other = degraded_and_true(128)
    faces = torch.cat([one, other])
    with torch.no_grad():
        expected = clipiqa_arch.CLIPIQA().eval()(faces).flatten()
    assert metrics["clipiqa"](faces, None) == pytest.approx(expected.numpy(), abs=1e-6)
    assert float(expected[0]) != pytest.approx(float(expected[1]), abs=1e-5)


def test_liqe_gives_the_score_of_pyiqas_own_call_whatever_texts_were_kept_elsewhere(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with importable_clip():
        from pyiqa.archs import liqe_arch
    vision = {"vision_layers": 1, "vision_width": 64, "vision_patch_size": 32}
    monkeypatch.setattr(liqe_arch, "load", lambda *_: small_clip(vision))
    (hub / "own").mkdir()
    monkeypatch.setattr(liqe_arch, "DEFAULT_CACHE_DIR", str(hub / "own"))
    network = liqe_arch.LIQE(pretrained=False).eval()
    torch.save({"params": network.state_dict()}, hub / "pyiqa/liqe_koniq.pt")
    # What a metric with other weights left behind.
    torch.save(torch.rand(5, 32), hub / "own/liqe_text_feat.pt")
    put_clip(hub, monkeypatch, "clip/ViT-B-32.pt")
    metrics, unavailable = open_metrics(["liqe"], identity_network=None)
    assert not unavailable
    one, other = degraded_and_true(256)
    faces = torch.cat([one, other])
    with torch.no_grad():
        expected = network(faces).flatten()
    assert metrics["liqe"](faces, None) == pytest.approx(expected.numpy(), abs=1e-5)
    assert float(expected[0]) != pytest.approx(float(expected[1]), abs=1e-4)
    assert not (hub / "pyiqa/liqe_text_feat.pt").exists()


def degraded_and_true(side: int) -> tuple[torch.Tensor, torch.Tensor]:
    hq = astronaut()[0:side, 150 : 150 + side]
    degraded = images.resize(images.resize(hq, side // 4), side)
    return images.to_tensor([degraded]), images.to_tensor([hq])


def test_fids_features_are_those_of_pyiqas_network_on_pictures_as_each_protocol_prepares_them(
    hub: Path,
) -> None:
    from pyiqa.archs import fid_arch, inception

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inception, "load_pretrained_network", lambda *_: None)
        torch.manual_seed(0)
        network = inception.fid_inception_v3().eval()
    torch.save(network.state_dict(), hub / "pyiqa/pt_inception-2015-12-05-6726825d.pth")
    (hub / "hdrface").mkdir()
    statistics = {"mean": np.zeros(2048), "cov": np.eye(2048)}
    torch.save(statistics, hub / "hdrface/inception_FFHQ_512.pth")
    metrics, unavailable = open_metrics(["fid_vqfr", "fid_folders"], identity_network=None)
    assert not unavailable
    face = astronaut()[0:128, 150:278]
    Image.fromarray(face).save(hub / "face.png")
    prepared: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "fid_vqfr": lambda picture: picture / 255 * 2 - 1,
        "fid_folders": lambda picture: (picture - 128) / 128,
    }
    for name, mode in (("fid_vqfr", "legacy_pytorch"), ("fid_folders", "clean")):
        published = fid_arch.ResizeDataset([hub / "face.png"], mode=mode)[0][None]
        own = metrics[name]._compute  # type: ignore[attr-defined]
        given = own.prepare(images.to_tensor([face]))
        assert given.numpy() == pytest.approx(prepared[name](published).numpy(), abs=1e-5)
        with torch.no_grad():
            expected = own.network(given, False, False)[0].flatten()
        assert metrics[name](images.to_tensor([face]), None)[0] == pytest.approx(
            expected.numpy(), abs=1e-6
        )


def test_a_metric_computes_in_full_precision_and_puts_the_settings_back(hub: Path) -> None:
    from components.metrics.still import still

    del hub
    matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before = matmul.fp32_precision, conv.fp32_precision, torch.random.get_rng_state()
    with still():
        assert (matmul.fp32_precision, conv.fp32_precision) == ("ieee", "ieee")
        first = torch.rand(3)
    with still():
        assert (torch.rand(3) == first).all()
    assert (matmul.fp32_precision, conv.fp32_precision) == before[:2]
    assert (torch.random.get_rng_state() == before[2]).all()
