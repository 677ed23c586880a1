"""ArcFace: the published layout, its resizing, gradients."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from components.encoders.arcface import ArcFace, IResNet


@pytest.fixture(scope="module")
def published() -> IResNet:
    """iResNet-50 of random weights with lively statistics."""
    torch.manual_seed(0)
    network = IResNet()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.eval()


def test_it_has_the_published_size_and_keys(published: IResNet) -> None:
    """InsightFace's model zoo: iResNet-50 has 43.59 million parameters."""
    assert sum(p.numel() for p in published.parameters()) / 1e6 == pytest.approx(43.59, abs=0.005)
    keys = published.state_dict().keys()
    for key in (
        *("conv1.weight", "bn1.running_mean", "prelu.weight", "fc.bias", "features.running_var"),
        *("layer1.0.downsample.0.weight", "layer1.0.downsample.1.weight", "layer1.2.bn3.bias"),
        *("layer3.13.prelu.weight", "layer4.2.conv2.weight", "bn2.num_batches_tracked"),
    ):
        assert key in keys
    assert "layer1.1.downsample.0.weight" not in keys
    assert "layer3.14.conv1.weight" not in keys


def test_a_block_is_batch_norm_conv_batch_norm_prelu_conv_batch_norm(published: IResNet) -> None:
    """Written out from the state dict, with functions only."""
    state = published.layer2[0].state_dict()
    x = torch.randn(2, 64, 14, 14, generator=torch.Generator().manual_seed(1))

    def norm(y: torch.Tensor, name: str) -> torch.Tensor:
        mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        shape = (1, -1, 1, 1)
        scale = weight / (var + 1e-5).sqrt()
        return torch.addcmul(bias.view(shape), y - mean.view(shape), scale.view(shape))

    y = nn.functional.conv2d(norm(x, "bn1"), state["conv1.weight"], padding=1)
    y = norm(y, "bn2")
    y = torch.where(y >= 0, y, y * state["prelu.weight"].view(1, -1, 1, 1))
    y = norm(nn.functional.conv2d(y, state["conv2.weight"], padding=1, stride=2), "bn3")
    shortcut = nn.functional.conv2d(x, state["downsample.0.weight"], stride=2)
    expected = y + norm(shortcut, "downsample.1")
    with torch.no_grad():
        torch.testing.assert_close(published.layer2[0](x), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["backbone.pth", "backbone.safetensors"])
def test_both_formats_load_to_the_same_embedding(
    published: IResNet, tmp_path: Path, name: str
) -> None:
    save = torch.save if name.endswith(".pth") else save_file
    save(published.state_dict(), tmp_path / name)
    images = torch.rand(2, 3, 112, 112, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        assert torch.equal(ArcFace.load(tmp_path / name)(images), published(2 * images - 1))


def triangle_resize(image: np.ndarray, size: int) -> np.ndarray:
    """Antialiased bilinear: a triangle as wide as the reduction, normalised at the border."""

    def matrix(source: int) -> np.ndarray:
        scale = max(source / size, 1.0)
        centres = (np.arange(size) + 0.5) * source / size
        distance = np.abs(np.arange(source) + 0.5 - centres[:, None]) / scale
        weights = np.clip(1 - distance, 0, None)
        return np.asarray(weights / weights.sum(1, keepdims=True))

    rows, columns = matrix(image.shape[-2]), matrix(image.shape[-1])
    return np.asarray(rows @ image @ columns.T)


@pytest.mark.parametrize("size", [64, 160, 512])
def test_pictures_of_any_size_are_resized_with_antialiasing(size: int) -> None:
    images = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(size))
    seen = (ArcFace(nn.Identity())(images) + 1) / 2
    expected = triangle_resize(images.double().numpy(), 112)
    np.testing.assert_allclose(seen.numpy(), expected, atol=2e-5)


def test_the_reference_feeds_it_the_picture_as_it_is() -> None:
    images = torch.rand(1, 3, 160, 160, generator=torch.Generator().manual_seed(1))
    seen = ArcFace(nn.Identity(), input_range="unit")(images)
    expected = triangle_resize(images.double().numpy(), 112)
    np.testing.assert_allclose(seen.numpy(), expected, atol=2e-5)


def test_gradients_reach_the_picture_and_training_mode_changes_nothing(published: IResNet) -> None:
    encoder = ArcFace(published).train()
    images = torch.rand(2, 3, 64, 64).requires_grad_()
    encoder(images).sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0
    assert not any(p.requires_grad for p in encoder.parameters())
    assert not any(module.training for module in encoder.modules())


def test_another_network_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "backbone.pth"
    with pytest.raises(FileNotFoundError, match="iResNet-50 trained on MS1MV3"):
        ArcFace.load(file)
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, file)
    with pytest.raises(ValueError, match=r"(?s)backbone.pth is not an iResNet-50.*conv1.weight"):
        ArcFace.load(file)
