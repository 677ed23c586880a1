"""The one step of SD 2.1 against its equation, its schedule and its published size."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from components.backbones.backbone import sampled
from components.backbones.catalogue import check_posterior
from components.backbones.stable_diffusion import StableDiffusion
from components.keyed_random import normal
from components.weights.lora import LoraParams


@pytest.fixture(scope="module")
def backbone(networks: Path) -> StableDiffusion:
    return StableDiffusion(networks / "sd21")


def test_alpha_bar_of_the_fixed_timestep_is_the_papers(backbone: StableDiffusion) -> None:
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    assert backbone.alpha_bar == pytest.approx(np.prod(1 - betas[:400]), rel=1e-5)
    assert backbone.alpha_bar == pytest.approx(0.426, abs=5e-4)


def test_the_step_is_equation_8_on_the_latent_itself(backbone: StableDiffusion) -> None:
    latent, condition = torch.randn(2, 4, 16, 16), torch.randn(2, 5, 24)
    with torch.no_grad():
        epsilon = backbone.generator(latent, 399, condition).sample.numpy().astype(np.float64)
        restored = backbone.step(latent, condition, None).numpy()
    a = backbone.alpha_bar
    expected = (latent.numpy() - np.sqrt(1 - a) * epsilon) / np.sqrt(a)
    np.testing.assert_allclose(restored, expected, atol=1e-5)


def test_encoding_is_the_scaled_posterior_mean_and_decoding_undoes_the_scale(
    backbone: StableDiffusion,
) -> None:
    image = torch.rand(1, 3, 32, 32)
    latent = backbone.encode(image)
    scale = backbone.vae.config.scaling_factor
    with torch.no_grad():
        mean = backbone.vae.encode(2 * image - 1).latent_dist.mean
        expected = backbone.vae.decode(mean).sample / 2 + 0.5
        torch.testing.assert_close(latent, scale * mean)
        torch.testing.assert_close(backbone.decode(latent), expected, atol=1e-5, rtol=1e-4)


def test_a_sample_of_the_posterior_is_mean_and_deviation_times_keyed_noise(
    backbone: StableDiffusion,
) -> None:
    images, keys = torch.rand(2, 3, 32, 32), [(42, "a", 0, "lq posterior"), (42, "b", 3, "x")]
    with torch.no_grad():
        encoded = backbone.vae.quant_conv(backbone.vae.encoder(2 * images - 1)).double().numpy()
    mean, log_variance = np.split(encoded, 2, axis=1)
    noise = np.stack([normal(*key, mean.shape[1:]) for key in keys])
    deviation = np.exp(np.clip(log_variance, -30, 20) / 2)
    expected = backbone.vae.config.scaling_factor * (mean + deviation * noise)
    got = sampled(backbone.moments(images), keys)
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-5)
    assert float((got - backbone.encode(images)).abs().mean()) > 0.01


def test_samples_are_refused_where_a_family_takes_means_only() -> None:
    check_posterior("sd21", "sample")
    check_posterior("qwen", "mean")
    with pytest.raises(ValueError, match="qwen takes posterior means only"):
        check_posterior("qwen", "sample")


def test_a_velocity_model_is_refused(networks: Path, tmp_path: Path) -> None:
    shutil.copytree(networks / "sd21", tmp_path / "v")
    file = tmp_path / "v" / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"prediction_type": "v_prediction"}))
    with pytest.raises(ValueError, match="predicts 'v_prediction'"):
        StableDiffusion(tmp_path / "v")


def test_lora_starts_without_effect_trains_alone_and_is_published_with_unet_keys(
    networks: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    latent, condition = torch.randn(1, 4, 16, 16), torch.randn(1, 5, 24)
    backbone = StableDiffusion(networks / "sd21")
    with torch.no_grad():
        before = backbone.step(latent, condition, None)
    backbone.train_only("lora", LoraParams(rank=4, alpha=4))
    with torch.no_grad():
        torch.testing.assert_close(backbone.step(latent, condition, None), before)
    trained = {n for n, p in backbone.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    assert all(any(target in name for name in trained) for target in StableDiffusion.lora_targets)
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            if name in trained:
                parameter.normal_(std=0.1)
        changed = backbone.step(latent, condition, None)
    backbone.save_trained(tmp_path, "lora")
    published = load_file(tmp_path / "pytorch_lora_weights.safetensors")
    assert all(key.startswith("unet.") for key in published)
    again = StableDiffusion(networks / "sd21")
    again.load_lora(tmp_path)
    with torch.no_grad():
        assert torch.equal(again.step(latent, condition, None), changed)
    assert not torch.allclose(changed, before)
    older = {
        key.replace("lora_A", "lora.down").replace("lora_B", "lora.up")
        if ".attn" in key
        else key: value
        for key, value in published.items()
    }
    (tmp_path / "older").mkdir()
    save_file(older, tmp_path / "older" / "pytorch_lora_weights.safetensors")
    again = StableDiffusion(networks / "sd21")
    again.load_lora(tmp_path / "older")
    with torch.no_grad():
        assert torch.equal(again.step(latent, condition, None), changed)


def test_the_published_unet_has_the_published_number_of_parameters() -> None:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=64,
            cross_attention_dim=1024,
            attention_head_dim=[5, 10, 20, 20],
            use_linear_projection=True,
        )
    millions = sum(parameter.numel() for parameter in unet.parameters()) / 1e6
    assert round(millions) == 866  # METHOD, section 8
