"""Networks as they are prepared for inference: the same function, with less to compute."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from components import images
from components.backbones import wide_convolution
from components.backbones.backbone import Backbone
from components.backbones.catalogue import FAMILIES, BackboneName
from components.backbones.large_tensors import write_over
from components.backbones.real_rotary import turned
from components.backbones.upsampling import EnlargingConvolution
from components.restorers.compiled import Compiled, powers_of_two
from components.restorers.folder import load_alone, load_restorer
from components.restorers.hdrface import HDRFace
from components.restorers.together import Together
from components.weights.precision import Precision, computing
from tests.small_networks import SIZE, VAE, trained

RANK = 2


def opened(folder: Path) -> HDRFace:
    restorer = load_restorer(folder)
    assert isinstance(restorer, HDRFace)
    return restorer


@torch.no_grad()
def stepped(backbone: Backbone, side: int = 16) -> Tensor:
    draw = torch.Generator().manual_seed(3)
    latent, noise = torch.randn(2, 2, 4, side, side, generator=draw)
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
            sees_pictures = weight.dim() > 3 and weight.shape[1] == 3
            is_small = weight.dim() > 1 and not sees_pictures
            assert weight.dtype == (torch.bfloat16 if is_small else torch.float32), key
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


def test_what_meets_no_data_in_an_autoencoder_of_videos_is_left_out(
    tmp_path: Path, networks: Path
) -> None:
    prepared = opened(trained(tmp_path, networks, "qwen", "text")).backbone
    plain = FAMILIES["qwen"](networks / "qwen").float()
    latent = torch.randn(1, 4, 16, 12, generator=torch.Generator().manual_seed(1))
    assert torch.equal(prepared.encode(faces(1)), plain.encode(faces(1)))
    with torch.no_grad():
        assert torch.equal(prepared.decode(latent), plain.decode(latent))
    one, whole = (
        sum(weight.numel() for weight in backbone.vae.parameters())
        for backbone in (prepared, plain)
    )
    assert one < 0.4 * whole


def test_an_enlarging_convolution_is_that_of_repeated_pixels() -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(5, 7, 3, padding=1)
    x = torch.randn(2, 5, 6, 9)
    with torch.no_grad():
        repeated = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        enlarging = EnlargingConvolution(convolution)
        torch.testing.assert_close(enlarging(x), convolution(repeated), atol=1e-6, rtol=1e-5)
        write_over(enlarging)
        torch.testing.assert_close(enlarging(x), convolution(repeated), atol=1e-6, rtol=1e-5)


def test_on_a_cpu_wide_convolutions_multiply_less_and_pictures_lie_channels_last(
    tmp_path: Path, networks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = trained(tmp_path, networks, "sd21", "text")
    assert not tiled(opened(folder))  # these networks are small
    monkeypatch.setattr(wide_convolution, "_FEWEST_CHANNELS", 8)
    monkeypatch.setattr(wide_convolution, "_LARGE", 4)
    prepared, plain = opened(folder), FAMILIES["sd21"](networks / "sd21").float()
    assert tiled(prepared) > 10
    assert not tiled(load_restorer(folder, precision="bf16"))
    assert not tiled(load_alone(folder))  # as an export does, which records what is called
    convolve, convolved = wide_convolution.convolve, []

    def counted(x: Tensor, kernels: Tensor, bias: Tensor) -> Tensor:
        convolved.append(tuple(x.shape))
        return convolve(x, kernels, bias)

    monkeypatch.setattr(wide_convolution, "convolve", counted)
    latent = prepared.backbone.encode(faces(2))
    assert convolved
    convolved.clear()
    with torch.no_grad():
        decoded = prepared.backbone.decode(latent)
        assert convolved
        torch.testing.assert_close(latent, plain.encode(faces(2)), atol=3e-5, rtol=0)
        torch.testing.assert_close(decoded, plain.decode(latent), atol=3e-5, rtol=0)
    torch.testing.assert_close(stepped(prepared.backbone), stepped(plain), atol=3e-5, rtol=0)
    assert decoded.is_contiguous(memory_format=torch.channels_last)


def tiled(restorer: Any) -> int:
    return sum(isinstance(one, wide_convolution.WideConvolution) for one in restorer.modules())


def test_a_batch_is_filled_up_to_a_compiled_size_and_a_larger_one_is_cut() -> None:
    compiled_for: list[int] = []

    def backend(graph: Any, inputs: Any) -> Any:
        compiled_for.append(inputs[0].shape[0])
        return graph.forward

    sum_of = Compiled(lambda x, y: x + y.mean(dim=1), [4, 2], backend=backend)
    x, y = torch.randn(9, 3), torch.randn(9, 5, 3)
    for count in (1, 2, 3, 9):
        found = sum_of(x[:count], y[:count])
        torch.testing.assert_close(found, x[:count] + y[:count].mean(dim=1))
    assert sorted(compiled_for) == [2, 4]
    assert (powers_of_two(1), powers_of_two(6)) == ([1], [1, 2, 4, 6])
    with pytest.raises(ValueError, match="give positive ones"):
        Compiled(torch.sin, [0])


# What is compiled does the same without a compiler, which takes minutes: see benchmarks/inference.
@pytest.mark.parametrize("name", ["sd21", "qwen"])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_restorer_for_compiled_batches_restores_the_same_faces(
    tmp_path: Path, networks: Path, name: BackboneName, precision: Precision
) -> None:
    folder = trained(tmp_path, networks, name, "sdfm", rank=RANK)
    plain = load_restorer(folder, precision=precision)
    compiled = load_restorer(folder, precision=precision, compile_for=[2])
    with torch.compiler.set_stance("force_eager"):
        expected, found = (one.restore(faces(3), list("abc"), [0] * 3) for one in (plain, compiled))
    # bfloat16 has 8 bits: where two ways to add round to different sides, levels differ.
    most = {"float32": 1.01, "bf16": 6.5}[precision] / 255
    difference = (found.restored_B3HW - expected.restored_B3HW).abs()
    assert float(difference.max()) <= most
    assert float((difference > 0).float().mean()) < {"float32": 0.01, "bf16": 0.25}[precision]


def test_a_generator_with_real_rotary_positions_compiles_as_a_whole_and_computes_the_same(
    tmp_path: Path, networks: Path
) -> None:
    folder = trained(tmp_path, networks, "qwen", "text", rank=RANK)
    for precision in ("float32", "bf16"):
        restorer = load_restorer(folder, precision=precision)
        assert isinstance(restorer, HDRFace)
        with computing(restorer.precision, restorer.device):
            expected = stepped(restorer.backbone)
            restorer.backbone.allow_compiling(SIZE)
            torch.testing.assert_close(stepped(restorer.backbone), expected, atol=1e-6, rtol=0)
    whole: Any = restorer.backbone
    with computing(restorer.precision, restorer.device):
        with pytest.raises(ValueError, match="load the model without compiling"):
            stepped(whole, side=8)
        whole.step = torch.compile(whole.step, backend="eager", fullgraph=True)
        torch.testing.assert_close(stepped(whole), expected, atol=1e-6, rtol=0)


def test_features_are_turned_as_complex_numbers() -> None:
    draw = np.random.default_rng(2)
    x, angles = draw.normal(size=(2, 3, 4, 6)), draw.normal(size=(3, 1, 3))
    as_complex = (x[..., ::2] + 1j * x[..., 1::2]) * np.exp(1j * angles)
    expected = np.stack([as_complex.real, as_complex.imag], axis=-1).reshape(x.shape)
    cos, sin = (torch.from_numpy(one).float() for one in (np.cos(angles), np.sin(angles)))
    found = turned(torch.from_numpy(x).float(), (cos, sin))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


def test_what_models_have_in_common_is_loaded_and_computed_once(
    tmp_path: Path, networks: Path
) -> None:
    together, batches = Together(), [faces(2), faces(2).flip(0)]
    folders = [trained(tmp_path, networks, "sd21", condition) for condition in ("sdfm", "dino")]
    alone = load_restorer(folders[1])
    one, other = models = [load_restorer(folder, together=together) for folder in folders]
    assert isinstance(one, HDRFace)
    assert isinstance(other, HDRFace)
    assert one.intermediate is other.intermediate
    assert one.encoder is other.encoder
    calls: list[str] = []
    assert isinstance(one.intermediate, HDRFace)
    assert one.encoder is not None
    parts = {
        "first": [one.intermediate.backbone.generator],
        "tokens": [one.encoder.network],
        "latents": [one.backbone.vae.encoder, other.backbone.vae.encoder],
    }
    for name, counted in parts.items():
        for part in counted:
            part.register_forward_hook(lambda *_, name=name: calls.append(name))
    for batch in batches:
        _, found = (model.restore(batch, ["a", "b"], [0, 0]) for model in models)
        expected = alone.restore(batch, ["a", "b"], [0, 0])
        assert torch.equal(found.restored_B3HW, expected.restored_B3HW)
    assert sorted(calls) == sorted(2 * list(parts))  # of two batches
