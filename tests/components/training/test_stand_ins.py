"""Stand-ins: real training, fixed seeds, the published layout."""

from pathlib import Path

import numpy as np
import pytest
import torch

from components import images
from components.training import stand_ins
from components.training.stand_ins import AutoencoderTraining, StandInParams, train_autoencoder
from tests.small_networks import PARAMS, make_network


def test_the_same_seed_makes_the_same_bytes(tmp_path: Path) -> None:
    first, second = (make_network("sd21", tmp_path / name) for name in ("a", "b"))
    for file in sorted(path for path in first.rglob("*") if path.is_file()):
        assert file.read_bytes() == (second / file.relative_to(first)).read_bytes(), file.name


def test_the_autoencoder_learns_to_repeat_smooth_pictures() -> None:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    y, x = np.mgrid[0:32, 0:32] / 31
    draw = np.random.default_rng(0)
    waves = [np.sin(6 * (a * x + b * y) + c) for a, b, c in draw.random((24, 3))]
    faces = np.stack([np.repeat((127 + 100 * wave)[..., None], 3, 2) for wave in waves])
    faces = faces.astype(np.uint8)
    torch.manual_seed(0)
    vae = AutoencoderKL(**PARAMS["sd21"]["vae"])
    tensor = images.to_tensor(list(faces)) * 2 - 1

    def reconstruct(image: torch.Tensor) -> torch.Tensor:
        decoded: torch.Tensor = vae.decode(vae.encode(image).latent_dist.mean).sample
        return decoded

    def error() -> float:
        with torch.no_grad():
            return float((reconstruct(tensor) - tensor).square().mean())

    before = error()
    params = AutoencoderTraining(steps=60, batch_size=4, crop=16, learning_rate=5e-3)
    train_autoencoder(vae, reconstruct, faces, params, seed=0)
    assert error() < before / 10


@pytest.mark.parametrize("name", ["sd21", "qwen"])
def test_residual_blocks_begin_by_passing(name: str) -> None:
    """Else the autoencoder leaves a colour grey for hundreds of steps."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.autoencoders.autoencoder_kl_qwenimage import AutoencoderKLQwenImage

    vae = {"sd21": AutoencoderKL, "qwen": AutoencoderKLQwenImage}[name](**PARAMS[name]["vae"])
    factor = next(iter(vae.parameters()))
    hardly = AutoencoderTraining(steps=1, batch_size=1, crop=16, learning_rate=1e-12)
    faces = np.zeros((1, 16, 16, 3), np.uint8)
    train_autoencoder(vae, lambda image: image * factor.sum(), faces, hardly, seed=0)
    blocks = [
        module
        for module in vae.modules()
        if hasattr(module, "conv_shortcut")
        and (module.conv_shortcut is None or not list(module.conv_shortcut.parameters()))
    ]
    assert blocks
    for block in blocks:
        frames = () if name == "sd21" else (1,)
        signal = torch.rand(1, int(block.conv1.in_channels), *frames, 4, 4)
        passed = block(signal, None) if name == "sd21" else block(signal)
        assert torch.allclose(passed, signal, atol=1e-5)


def test_a_missing_section_is_named(tmp_path: Path) -> None:
    params = StandInParams.model_validate({"seed": 0, "vae": {}})
    with pytest.raises(ValueError, match=r"weights\.qwen\.stand_in\.autoencoder is missing"):
        stand_ins.make("qwen", params, {}, tmp_path)
