"""Perceptual losses against their papers' formulas in NumPy, on VGG features of random weights.

The published weights are not at hand; the formulas hold for any.
"""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models.vgg import cfgs, make_layers  # type: ignore[import-untyped]

from components.losses import perceptual
from components.losses.perceptual import DistsLoss, LpipsLoss, pyiqa_network
from components.losses.pixel import sobel

# Outputs of VGG-16's relu1_2, 2_2, 3_3, 4_3, 5_3.
LPIPS_LAYERS = (3, 8, 15, 22, 29)


@pytest.fixture(scope="module")
def vgg_features() -> nn.Module:
    torch.manual_seed(0)
    features: nn.Module = make_layers(cfgs["D"])
    return features.requires_grad_(requires_grad=False)


@pytest.fixture
def caches(
    vgg_features: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, dict[str, torch.Tensor]], None]:
    """Empty caches for pyiqa and torch, and a way to fill them as the publishers would."""
    from pyiqa.utils import download_util

    monkeypatch.setattr(download_util, "DEFAULT_CACHE_DIR", str(tmp_path / "hub" / "pyiqa"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))

    def refuse(url: str, *_args: object, **_options: object) -> None:
        raise AssertionError(f"a download was tried: {url}")

    monkeypatch.setattr(download_util, "download_url_to_file", refuse)

    def fill(own_file: str, own: dict[str, torch.Tensor]) -> None:
        # The whole VGG-16 has 528 MB; its features are what both losses use.
        vgg = lambda **_options: SimpleNamespace(features=vgg_features)  # noqa: E731
        monkeypatch.setattr("torchvision.models.vgg16", vgg)
        for folder, name, tensors in (
            ("pyiqa", own_file, own),
            ("checkpoints", "vgg16-397923af.pth", {}),
        ):
            (tmp_path / "hub" / folder).mkdir(parents=True)
            torch.save(tensors, tmp_path / "hub" / folder / name)

    return fill


def pictures(seed: int) -> torch.Tensor:
    return torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(seed))


def dists_weights(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    channels = 3 + 64 + 128 + 256 + 512 + 512
    return {k: torch.rand(1, channels, 1, 1, generator=generator) for k in ("alpha", "beta")}


def numpy_dists(dists: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    """Ding et al. 2020, eq. 6: 1 - sum of alpha · luminance + beta · structure, over 6 stages."""
    with torch.no_grad():
        stages = [
            (a.double().numpy(), b.double().numpy())
            for a, b in zip(dists.forward_once(x), dists.forward_once(y), strict=True)  # type: ignore[operator]
        ]
    alpha = dists.alpha.detach().double().numpy().ravel()  # type: ignore[operator]
    beta = dists.beta.detach().double().numpy().ravel()  # type: ignore[operator]
    total, start, scores = alpha.sum() + beta.sum(), 0, np.ones(len(x))
    for a, b in stages:
        width = a.shape[1]
        part = slice(start, start + width)
        start += width
        mean_a, mean_b = a.mean((2, 3)), b.mean((2, 3))
        covariance = ((a - mean_a[..., None, None]) * (b - mean_b[..., None, None])).mean((2, 3))
        luminance = (2 * mean_a * mean_b + 1e-6) / (mean_a**2 + mean_b**2 + 1e-6)
        structure = (2 * covariance + 1e-6) / (a.var((2, 3)) + b.var((2, 3)) + 1e-6)
        scores -= (luminance @ alpha[part] + structure @ beta[part]) / total
    return float(scores.mean())


def test_dists_compares_the_picture_and_its_edges(caches: Callable[..., None]) -> None:
    caches("DISTS_weights-f5e65c96.pth", dists_weights(1))
    loss = DistsLoss.load()
    restored, hq = pictures(1) * 1.4 - 0.2, pictures(2)
    x, y = restored.clamp(0, 1), hq
    dists = loss.dists.net
    assert isinstance(dists, nn.Module)
    torch.testing.assert_close(dists.state_dict()["alpha"], dists_weights(1)["alpha"])
    expected = numpy_dists(dists, x, y)
    expected += numpy_dists(dists, sobel(x).expand_as(x), sobel(y).expand_as(y))
    assert loss(restored, hq).item() == pytest.approx(expected, rel=1e-4)
    assert loss(hq, hq).item() == pytest.approx(0, abs=1e-5)


def numpy_lpips(
    features: nn.Module, heads: list[np.ndarray], x: torch.Tensor, y: torch.Tensor
) -> float:
    """Zhang et al. 2018, eq. 1: weighted squared differences of unit-length features."""
    shift = torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1)
    a, b = (2 * x - 1 - shift) / scale, (2 * y - 1 - shift) / scale
    distance = np.zeros(len(x))
    for index, layer in enumerate(features):  # type: ignore[arg-type, var-annotated]
        with torch.no_grad():
            a, b = layer(a), layer(b)
        if index in LPIPS_LAYERS:
            unit = [t.double().numpy() for t in (a, b)]
            unit = [t / (np.sqrt((t**2).sum(1, keepdims=True)) + 1e-10) for t in unit]
            head = heads[LPIPS_LAYERS.index(index)]
            distance += np.einsum("bchw,c->bhw", (unit[0] - unit[1]) ** 2, head).mean((1, 2))
    return float(distance.mean())


@pytest.fixture
def lpips_heads() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    widths = (64, 128, 256, 512, 512)
    return {
        f"lin{i}.model.1.weight": torch.rand(1, width, 1, 1, generator=generator)
        for i, width in enumerate(widths)
    }


def test_lpips_is_on_minus_one_to_one_and_not_clamped(
    caches: Callable[..., None], lpips_heads: dict[str, torch.Tensor], vgg_features: nn.Module
) -> None:
    caches("LPIPS_v0.1_vgg-a78928a0.pth", lpips_heads)
    restored, hq = pictures(1) * 1.4 - 0.2, pictures(2)
    heads = [head.double().numpy().ravel() for head in lpips_heads.values()]
    expected = numpy_lpips(vgg_features, heads, restored, hq)
    assert expected != pytest.approx(numpy_lpips(vgg_features, heads, restored.clamp(0, 1), hq))
    assert LpipsLoss.load()(restored, hq).item() == pytest.approx(expected, rel=1e-4)


def test_a_training_step_neither_changes_nor_randomises_the_network(
    caches: Callable[..., None], lpips_heads: dict[str, torch.Tensor]
) -> None:
    caches("LPIPS_v0.1_vgg-a78928a0.pth", lpips_heads)
    loss = nn.ModuleList([LpipsLoss.load()]).train()[0]
    restored = pictures(1).requires_grad_()
    loss(restored, pictures(2)).backward()
    assert restored.grad is not None
    assert restored.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in loss.parameters())
    assert loss(restored, pictures(2)).item() == loss(restored, pictures(2)).item(), "dropout is on"


@pytest.mark.parametrize(
    ("name", "own"),
    [("dists", "DISTS_weights-f5e65c96.pth"), ("lpips-vgg", "LPIPS_v0.1_vgg-a78928a0.pth")],
)
@pytest.mark.usefixtures("caches")
def test_missing_weights_are_named_and_not_downloaded(
    name: perceptual.PyiqaName, own: str, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError) as refused:
        pyiqa_network(name)
    assert str(tmp_path / "hub" / "pyiqa" / own) in str(refused.value)
    assert str(tmp_path / "hub" / "checkpoints" / "vgg16-397923af.pth") in str(refused.value)


def test_the_named_files_are_those_that_pyiqa_loads() -> None:
    """As in pyiqa's own constants: a new version with other files must fail here."""
    from pyiqa.archs import dists_arch, lpips_arch
    from torchvision.models import VGG16_Weights  # type: ignore[import-untyped]

    dists, vgg = perceptual.needed_files("dists")
    lpips, _ = perceptual.needed_files("lpips-vgg")
    assert dists_arch.default_model_urls["url"].endswith(f"/{dists.name}")
    assert lpips_arch.default_model_urls["0.1_vgg"].endswith(f"/{lpips.name}")
    assert VGG16_Weights.IMAGENET1K_V1.url.endswith(f"/{vgg.name}")


class _Evil:
    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return (exec, ("raise SystemExit('ran')",))


def test_a_file_that_is_more_than_tensors_is_refused_before_pyiqa_runs_it(
    caches: Callable[..., None],
) -> None:
    caches("DISTS_weights-f5e65c96.pth", {"alpha": _Evil()})
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        DistsLoss.load()
