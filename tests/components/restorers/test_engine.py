"""Networks as they are prepared for inference: the same function, with less to compute."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from components import images
from components.backbones.backbone import Backbone
from components.backbones.catalogue import FAMILIES, BackboneName
from components.backbones.upsampling import EnlargingConvolution
from components.restorers.folder import load_restorer
from components.restorers.hdrface import HDRFace
from tests.small_networks import SIZE, VAE, trained

RANK = 2


def opened(folder: Path) -> HDRFace:
    restorer = load_restorer(folder)
    assert isinstance(restorer, HDRFace)
    return restorer


@torch.no_grad()
def stepped(backbone: Backbone) -> Tensor:
    draw = torch.Generator().manual_seed(3)
    latent, noise = torch.randn(2, 2, 4, 16, 16, generator=draw)
    condition = torch.randn(2, 5, backbone.condition_width, generator=draw)
    return backbone.step(latent, condition, backbone.inference_noise(noise, 1.0))


@pytest.mark.parametrize("name", ["sd21", "qwen"])
def test_merged_layers_are_the_same_function_and_no_layers_of_peft_are_left(
    tmp_path: Path, networks: Path, name: BackboneName
) -> None:
    folder = trained(tmp_path, networks, name, "text", rank=RANK)
    plain, layered = (FAMILIES[name](networks / name).float() for _ in range(2))
    layered.load_lora(folder)
    restorer = opened(folder)
    expected = stepped(layered)
    torch.testing.assert_close(stepped(restorer.backbone), expected, atol=1e-5, rtol=0)
    assert float((expected - stepped(plain)).abs().max()) > 0.01  # the layers do something
    modules = list(restorer.modules())
    assert not [one for one in modules if type(one).__module__.partition(".")[0] == "peft"]
    assert not [key for key, _ in restorer.named_parameters() if "lora" in key]


def faces(count: int) -> Tensor:
    draw = np.random.default_rng(0)
    return images.to_tensor(list(draw.integers(256, size=(count, SIZE, SIZE, 3), dtype=np.uint8)))


@pytest.mark.parametrize("name", ["sd21", "qwen"])
def test_in_bf16_pictures_differ_little_and_the_gate_stays_float32(
    tmp_path: Path, networks: Path, name: BackboneName
) -> None:
    folder = trained(tmp_path, networks, name, "sdfm", rank=RANK)
    exact, small = (load_restorer(folder, precision=one) for one in ("float32", "bf16"))
    assert isinstance(small, HDRFace)
    assert isinstance(small.intermediate, HDRFace)
    numbers = (exact.precision, small.precision, small.intermediate.precision)
    assert numbers == ("float32", "bf16", "bf16")
    for part in (small.backbone, small.encoder, small.intermediate.backbone):
        assert part is not None
        for key, weight in part.named_parameters():
            assert weight.dtype == (torch.bfloat16 if weight.dim() > 1 else torch.float32), key
    assert {weight.dtype for weight in small.condition.parameters()} == {torch.float32}
    first = faces(4).flip(0)
    one, other = (
        restorer.restore(faces(4), list("abcd"), [0] * 4, intermediate_B3HW=first)
        for restorer in (exact, small)
    )
    difference = (one.restored_B3HW - other.restored_B3HW).abs()
    assert 0 < float(difference.mean()) < 1 / 255
    assert float(difference.max()) < 6.5 / 255
    assert one.alpha_BHW is not None
    assert other.alpha_BHW is not None
    assert other.alpha_BHW.dtype == torch.float32
    torch.testing.assert_close(one.alpha_BHW, other.alpha_BHW, atol=0.01, rtol=0)


def test_a_picture_that_is_not_finite_in_bf16_is_refused(tmp_path: Path, networks: Path) -> None:
    restorer = load_restorer(trained(tmp_path, networks, "sd21", "text"), precision="bf16")
    assert isinstance(restorer, HDRFace)
    restorer.backbone.vae.decoder.conv_in.weight.fill_(3e38)
    with pytest.raises(ArithmeticError, match="in bf16: restore with precision float32"):
        restorer.restore(faces(1), ["a"], [0])


def test_the_decoder_enlarges_with_fewer_multiplications_and_gives_the_same_picture(
    tmp_path: Path, networks: Path
) -> None:
    prepared = opened(trained(tmp_path, networks, "sd21", "text")).backbone
    kinds = [type(one).__name__ for one in prepared.vae.decoder.modules()]
    assert kinds.count("EnlargingConvolution") == len(VAE["block_out_channels"]) - 1
    assert "Upsample2D" not in kinds
    latent = torch.randn(2, 4, 16, 12, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = FAMILIES["sd21"](networks / "sd21").float().decode(latent)
        torch.testing.assert_close(prepared.decode(latent), expected, atol=1e-5, rtol=0)


def test_an_enlarging_convolution_is_that_of_repeated_pixels() -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(5, 7, 3, padding=1)
    x = torch.randn(2, 5, 6, 9)
    with torch.no_grad():
        repeated = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        found = EnlargingConvolution(convolution)(x)
        torch.testing.assert_close(found, convolution(repeated), atol=1e-6, rtol=1e-5)
