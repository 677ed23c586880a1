"""The one step of Qwen-Image against its schedule, its equations and diffusers' own forms."""

from pathlib import Path

import numpy as np
import pytest
import torch

from components.backbones.backbone import StepNoise
from components.backbones.qwen_image import (
    QwenImage,
    SharedPositions,
    flow_sigmas,
    pack,
    unpack,
)
from components.weights.lora import LoraParams

GOLDEN = Path(__file__).parents[2] / "golden" / "flow_sigmas.npz"


@pytest.fixture(scope="module")
def backbone(networks: Path) -> QwenImage:
    return QwenImage(networks / "qwen")


def test_the_schedule_is_the_references() -> None:
    np.testing.assert_allclose(flow_sigmas().numpy(), np.load(GOLDEN)["sigma"], rtol=0, atol=1e-12)
    assert float(flow_sigmas()[750]) == pytest.approx(0.436, abs=5e-4)


def test_packing_is_diffusers_own_and_unpacking_undoes_it() -> None:
    from diffusers.pipelines.qwenimage.pipeline_qwenimage import QwenImagePipeline

    latent = torch.randn(2, 4, 6, 10)
    theirs = QwenImagePipeline._pack_latents(latent.unsqueeze(2), 2, 4, 6, 10)
    assert torch.equal(pack(latent), theirs)
    assert torch.equal(unpack(pack(latent), 6, 10), latent)


def test_the_second_image_lies_at_the_positions_of_the_first(backbone: QwenImage) -> None:
    shared = backbone.generator.pos_embed
    assert isinstance(shared, SharedPositions)
    frame, device = (1, 8, 8), torch.device("cpu")
    image, text = shared([[frame, frame]] * 2, max_txt_seq_len=5, device=device)
    alone, alone_text = shared.positions([[frame]] * 2, max_txt_seq_len=5, device=device)
    assert torch.equal(image, torch.cat([alone, alone]))
    assert torch.equal(text, alone_text)


def test_one_frame_as_flat_convolutions_gives_what_diffusers_gives(
    networks: Path, backbone: QwenImage
) -> None:
    from diffusers.models.autoencoders.autoencoder_kl_qwenimage import AutoencoderKLQwenImage

    vae = AutoencoderKLQwenImage.from_pretrained(networks / "qwen" / "vae").eval()
    image = torch.rand(2, 3, 32, 32)
    mean = torch.tensor(vae.config.latents_mean).view(1, -1, 1, 1)
    std = torch.tensor(vae.config.latents_std).view(1, -1, 1, 1)
    with torch.no_grad():
        theirs = vae.encode((2 * image - 1).unsqueeze(2)).latent_dist.mean
        latent = backbone.encode(image)
        torch.testing.assert_close(latent, (theirs.squeeze(2) - mean) / std, atol=1e-5, rtol=1e-4)
        decoded = vae.decode(theirs).sample.squeeze(2)
        ours = backbone.decode(latent).clamp(0, 1)
        torch.testing.assert_close(ours, decoded / 2 + 0.5, atol=1e-5, rtol=1e-4)


def test_the_step_is_equations_17_to_19(backbone: QwenImage) -> None:
    latent, condition = torch.randn(2, 4, 16, 16), torch.randn(2, 5, 40)
    noise = StepNoise(torch.randn(2, 4, 16, 16), torch.tensor([0.0, 0.3]))
    sigma = 0.436125430784867
    z, eps = latent.numpy().astype(np.float64), noise.noise_BCHW.numpy().astype(np.float64)
    z_t = (1 - sigma) * z + sigma * eps
    s = np.array([0.0, 0.3])[:, None, None, None]
    z_cond = (1 - s) * z + s * eps
    seen = torch.cat([pack(torch.from_numpy(each).float()) for each in (z_t, z_cond)], dim=1)
    frames = [[(1, 8, 8), (1, 8, 8)]] * 2
    with torch.no_grad():
        output = backbone.generator(
            hidden_states=seen,
            encoder_hidden_states=condition,
            timestep=torch.full((2,), sigma),
            img_shapes=frames,
        ).sample
        restored = backbone.step(latent, condition, noise).numpy()
    velocity = unpack(output[:, :64], 16, 16).numpy().astype(np.float64)
    np.testing.assert_allclose(restored, z_t - sigma * velocity, atol=1e-5)


def test_fidelity_picks_the_noise_of_the_condition(backbone: QwenImage) -> None:
    noise = torch.zeros(1, 4, 2, 2)
    levels = [float(backbone.inference_noise(noise, f).condition_sigma_B) for f in (1, 0.5, 0)]
    assert levels == pytest.approx([0.0, 0.255, 0.436], abs=5e-4)
    for fidelity, index in ((0.25, 813), (0.05, 763), (0.75, 938), (0.999, 1000)):  # halves go up
        level = float(backbone.inference_noise(noise, fidelity).condition_sigma_B)
        expected = [*flow_sigmas().tolist(), 0.0][index]
        assert level == pytest.approx(expected, abs=1e-6)
    with pytest.raises(ValueError, match=r"fidelity = 1\.5"):
        backbone.inference_noise(noise, 1.5)


def test_half_of_the_training_conditions_are_clean_and_the_rest_cover_the_schedule(
    backbone: QwenImage,
) -> None:
    drawn = backbone.training_noise(
        torch.zeros(4000, 1, 1, 1), torch.Generator().manual_seed(0), clean_condition=0.5
    )
    sigma = drawn.condition_sigma_B
    assert float((sigma == 0).float().mean()) == pytest.approx(0.5, abs=0.03)
    noisy = sigma[sigma > 0]
    assert 0.0199 < float(noisy.min()) < 0.03
    assert 0.42 < float(noisy.max()) <= 0.4362


def test_everything_that_trains_gets_a_gradient(networks: Path) -> None:
    backbone = QwenImage(networks / "qwen")
    backbone.train_only("full", None)
    latent = torch.randn(1, 4, 16, 16)
    noise = backbone.training_noise(latent, torch.Generator().manual_seed(1), clean_condition=0.5)
    backbone.step(latent, torch.randn(1, 5, 40), noise).sum().backward()
    without = [n for n, p in backbone.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []  # DDP waits for such a parameter for ever


def test_lora_is_published_with_transformer_keys(networks: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    backbone = QwenImage(networks / "qwen")
    backbone.train_only("lora", LoraParams(rank=2, alpha=2))
    with torch.no_grad():
        for parameter in backbone.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.1)
    backbone.save_trained(tmp_path, "lora")
    tensors = load_file(tmp_path / "pytorch_lora_weights.safetensors")
    assert all(key.startswith("transformer.") for key in tensors)
    again = QwenImage(networks / "qwen")
    again.load_lora(tmp_path)
    latent, condition = torch.randn(1, 4, 16, 16), torch.randn(1, 5, 40)
    noise = backbone.inference_noise(torch.randn(1, 4, 16, 16), 1.0)
    with torch.no_grad():
        assert torch.equal(
            again.step(latent, condition, noise), backbone.step(latent, condition, noise)
        )


def test_the_published_transformer_has_the_published_number_of_parameters() -> None:
    from diffusers.models.transformers.transformer_qwenimage import QwenImageTransformer2DModel

    with torch.device("meta"):
        transformer = QwenImageTransformer2DModel()
    billions = sum(parameter.numel() for parameter in transformer.parameters()) / 1e9
    assert round(billions, 2) == 20.43  # METHOD, section 8
