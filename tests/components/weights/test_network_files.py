"""Networks from their files: the numbers of from_pretrained, mapped, and refused by name."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_kl_qwenimage import AutoencoderKLQwenImage
from diffusers.models.transformers.transformer_qwenimage import QwenImageTransformer2DModel
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from components.backbones.stable_diffusion import StableDiffusion
from components.discriminators.discriminator import DiscriminatorOptions
from components.discriminators.wan import WanDiscriminator
from components.weights.network_files import FILE, load_network
from components.weights.precision import settle

PARTS = [
    (AutoencoderKL, "sd21/vae"),
    (UNet2DConditionModel, "sd21/unet"),
    (AutoencoderKLQwenImage, "qwen/vae"),
    (QwenImageTransformer2DModel, "qwen/transformer"),
    (WanTransformer3DModel, "qwen-discriminator/transformer"),
]


def rewrite(source: Path, folder: Path, change: Any) -> Path:
    """Copy a network's folder with other tensors: `change` edits the dictionary in place."""
    shutil.copytree(source, folder)
    tensors = load_file(folder / FILE)
    change(tensors)
    save_file(tensors, folder / FILE)
    return folder


def in_dtype(dtype: torch.dtype) -> Any:
    def change(tensors: dict[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            tensors[name] = tensor.to(dtype)

    return change


def places(file: bytes) -> dict[str, int]:
    """Return where each tensor of a safetensors file begins, behind the header."""
    header = json.loads(file[8 : 8 + int.from_bytes(file[:8], "little")])
    return {name: header[name]["data_offsets"][0] for name in header if name != "__metadata__"}


def tensors_of(network: Any) -> dict[str, Tensor]:
    buffers = {f"buffer {name}": value for name, value in network.named_buffers()}
    return {**network.state_dict(), **buffers}


@pytest.mark.parametrize(("kind", "part"), PARTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_numbers_are_those_of_from_pretrained(
    networks: Path, tmp_path: Path, kind: Any, part: str, dtype: torch.dtype
) -> None:
    folder = rewrite(networks / part, tmp_path / "network", in_dtype(dtype))
    expected = tensors_of(kind.from_pretrained(folder).float())
    network = load_network(kind, folder)
    assert {parameter.dtype for parameter in network.parameters()} == {dtype}
    assert not network.training
    found = tensors_of(network.float())
    assert found.keys() == expected.keys()
    assert [name for name in found if not torch.equal(found[name], expected[name])] == []


def test_shards_are_found_through_their_index(networks: Path, tmp_path: Path) -> None:
    source = networks / "qwen" / "transformer"
    whole = load_network(QwenImageTransformer2DModel, source)
    whole.save_pretrained(tmp_path, max_shard_size="30KB")
    shards = sorted(tmp_path.glob("*.safetensors"))
    assert len(shards) > 2
    found = load_network(QwenImageTransformer2DModel, tmp_path).state_dict()
    assert all(torch.equal(found[name], value) for name, value in whole.state_dict().items())
    shards[1].unlink()
    with pytest.raises(FileNotFoundError, match=rf"{shards[1].name} is missing, the folder holds"):
        load_network(QwenImageTransformer2DModel, tmp_path)


def test_a_variants_name_is_refused_with_what_is_there(networks: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(networks / "sd21" / "unet", tmp_path / "unet")
    (folder / FILE).rename(folder / "diffusion_pytorch_model.fp16.safetensors")
    with pytest.raises(FileNotFoundError, match=r"holds diffusion_pytorch_model\.fp16\.safet"):
        load_network(UNet2DConditionModel, folder)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda tensors: tensors.pop("conv_in.bias"), r"it lacks 1 tensors, e\.g\. conv_in\.bias"),
        (
            lambda tensors: tensors.update(gate=torch.zeros(1)),
            r"it has no place for 1 tensors, e\.g\. gate: fetch config and weights",
        ),
        (
            lambda tensors: tensors.update({"conv_in.bias": torch.zeros(5)}),
            r"has another shape of 1 tensors, e\.g\. conv_in\.bias is \(5,\), not \(8,\)",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    networks: Path, tmp_path: Path, change: Any, told: str
) -> None:
    folder = rewrite(networks / "sd21" / "unet", tmp_path / "unet", change)
    with pytest.raises(ValueError, match=told):
        load_network(UNet2DConditionModel, folder)


def test_the_published_autoencoders_older_names_are_read(networks: Path, tmp_path: Path) -> None:
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def change(tensors: dict[str, Tensor]) -> None:
        for name in list(tensors):
            for new, old in older.items():
                if f".attentions.0.{new}." in name:
                    tensors[name.replace(new, old)] = tensors.pop(name)

    weights = shutil.copytree(networks / "sd21", tmp_path / "sd21")
    shutil.rmtree(weights / "vae")
    rewrite(networks / "sd21" / "vae", weights / "vae", change)
    names = load_file(weights / "vae" / FILE).keys()
    assert sum(".query." in name or ".proj_attn." in name for name in names) == 8
    found, expected = StableDiffusion(weights).vae, StableDiffusion(networks / "sd21").vae
    for name, value in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name


def test_wans_published_file_may_hold_what_only_images_need(networks: Path, tmp_path: Path) -> None:
    weights = shutil.copytree(networks / "qwen-discriminator", tmp_path / "wan")
    shutil.rmtree(weights / "transformer")
    unused = {"blocks.0.attn2.norm_added_q.weight": torch.ones(24)}
    rewrite(
        networks / "qwen-discriminator" / "transformer",
        weights / "transformer",
        lambda tensors: tensors.update(unused),
    )
    WanDiscriminator(weights, 24, DiscriminatorOptions(condition="prompt"))


@pytest.mark.parametrize("is_settled", [False, True])
def test_a_change_in_place_stays_out_of_the_file(
    networks: Path, tmp_path: Path, *, is_settled: bool
) -> None:
    folder = shutil.copytree(networks / "sd21" / "unet", tmp_path / "unet")
    before = (folder / FILE).read_bytes()
    network = load_network(UNet2DConditionModel, folder)
    mapped = {parameter.data_ptr() for parameter in network.parameters()}
    # Each weight lies as far from the first as in the file.
    starts = {
        parameter.data_ptr() - places(before)[name]
        for name, parameter in network.named_parameters()
    }
    assert len(starts) == 1
    if is_settled:
        settle(network.modules(), "float32", torch.device("cpu"))
        own = {parameter.data_ptr() for parameter in network.parameters()}
        assert len(own) == len(list(network.parameters()))
        assert own.isdisjoint(mapped)
        assert all(parameter.data_ptr() % 64 == 0 for parameter in network.parameters())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(7)
    assert (folder / FILE).read_bytes() == before
