"""A generator whose timestep is folded into vectors: same function, fewer parameters, published."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from components.backbones.backbone import Backbone, Trainable
from components.backbones.catalogue import FAMILIES
from components.backbones.fixed_time import TimeVector, num_freed
from components.weights.lora import LoraParams
from tests.small_networks import MMDIT, UNET

BACKBONES = ["sd21", "qwen"]
LORA = LoraParams(rank=2, alpha=2)
WEIGHTS = "diffusion_pytorch_model.safetensors"
TIME = {"sd21": (399, UNET["block_out_channels"][0]), "qwen": (1000 * 0.436125430784867, 256)}
EMBEDDER = {"sd21": "time_embedding", "qwen": "time_text_embed.timestep_embedder"}
# By hand: resnets down, in the middle and up; two streams of two blocks, and the output's.
NUM_LAYERS = {"sd21": 2 + 2 + 4, "qwen": 2 * 2 + 1}


def begun(networks: Path, name: str, trainable: Trainable) -> Backbone:
    """Load a family and move all that could be trained, as a training would."""
    torch.manual_seed(4)
    backbone = FAMILIES[name](networks / name)
    backbone.train_only(trainable, LORA)
    move(backbone)
    return backbone.requires_grad_(requires_grad=False)


@torch.no_grad()
def move(backbone: Backbone) -> None:
    for parameter in backbone.parameters():
        if parameter.requires_grad:
            parameter.add_(0.1 * torch.randn_like(parameter))


@torch.no_grad()
def stepped(backbone: Backbone, rows: int = 1) -> Tensor:
    draw = torch.Generator().manual_seed(3)
    latent, noise = torch.randn(2, rows, 4, 16, 16, generator=draw)
    condition = torch.randn(rows, 5, backbone.condition_width, generator=draw)
    return backbone.step(latent, condition, backbone.inference_noise(noise, 1.0))


def silu(x: Any) -> Any:
    return x / (1 + np.exp(-x))


def embedding(name: str, tensors: dict[str, Any]) -> Any:
    """Embed the fixed timestep in float64: cosines and sines, Linear, SiLU, Linear."""
    timestep, width = TIME[name]
    angles = timestep * np.exp(-np.log(10000) * np.arange(width // 2) / (width // 2))
    if name == "sd21":
        # SD 2.1 of these sizes has diffusers' default, freq_shift 0 and cosines first.
        assert UNET.get("freq_shift", 0) == 0
    x = np.concatenate([np.cos(angles), np.sin(angles)])
    one, two = (
        [tensors[f"{EMBEDDER[name]}.linear_{layer}.{kind}"] for kind in ("weight", "bias")]
        for layer in (1, 2)
    )
    return two[0] @ silu(one[0] @ x + one[1]) + two[1]


@pytest.mark.parametrize("name", BACKBONES)
def test_each_vector_is_the_layers_own_at_the_fixed_timestep(networks: Path, name: str) -> None:
    backbone = FAMILIES[name](networks / name)
    tensors = {key: t.double().numpy() for key, t in backbone.generator.state_dict().items()}
    backbone.fold_time()
    activated = silu(embedding(name, tensors))
    folded = [
        (key, module)
        for key, module in backbone.generator.named_modules()
        if isinstance(module, TimeVector)
    ]
    assert len(folded) == NUM_LAYERS[name]
    for key, module in folded:
        expected = tensors[f"{key}.weight"] @ activated + tensors[f"{key}.bias"]
        # Sinusoids of a timestep in the hundreds have 1e-5 of float32's own rounding.
        np.testing.assert_allclose(module.vector.numpy(), expected, atol=3e-5)


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("trainable", ["full", "lora"])
def test_a_folded_generator_is_the_same_function_of_fewer_parameters(
    networks: Path, name: str, trainable: Trainable
) -> None:
    backbone = begun(networks, name, trainable)
    path = backbone.time_path(backbone.generator)
    before, whole = {rows: stepped(backbone, rows) for rows in (1, 3)}, num(backbone)
    assert path is not None
    if trainable == "lora":  # the published targets: SD's `time_emb_proj`, Qwen's `img_mod.1`
        layers = [backbone.generator.get_submodule(key) for key in path.layers]
        assert any("lora_A" in key for layer in layers for key in layer.state_dict())
    freed = num_freed(backbone.generator, path)
    backbone.fold_time()
    assert num(backbone) == whole - freed < whole
    for rows, expected in before.items():
        torch.testing.assert_close(stepped(backbone, rows), expected, atol=1e-5, rtol=0)


def num(backbone: Backbone) -> int:
    return sum(parameter.numel() for parameter in backbone.generator.parameters())


def folded_and_trained(weights: Path, name: str) -> Backbone:
    backbone = FAMILIES[name](weights)
    backbone.fold_time()
    backbone.float().train_only("full", None)
    torch.manual_seed(4)
    move(backbone)
    return backbone


@pytest.mark.parametrize("name", BACKBONES)
def test_trained_vectors_are_published_as_the_matrices_and_new_biases(
    networks: Path, tmp_path: Path, name: str
) -> None:
    backbone = folded_and_trained(networks / name, name)
    before = stepped(backbone, 3)
    backbone.save_trained(tmp_path, "full", weights=networks / name)
    assert torch.equal(stepped(backbone, 3), before)  # a checkpoint may still be written

    folder = tmp_path / backbone.generator_folder
    again = FAMILIES[name](networks / name, generator=folder)  # by diffusers, unfolded
    torch.testing.assert_close(stepped(again, 3), before, atol=1e-5, rtol=0)
    again.fold_time()
    torch.testing.assert_close(stepped(again, 3), before, atol=1e-5, rtol=0)
    published = load_file(networks / name / backbone.generator_folder / WEIGHTS)
    saved = load_file(folder / WEIGHTS)
    assert saved.keys() == published.keys()
    assert (folder / "config.json").is_file()
    path = again.time_path(again.generator)
    assert path is not None
    unchanged = [key for key in saved if torch.equal(saved[key], published[key])]
    kept = {f"{layer}.weight" for layer in path.layers}
    kept |= {key for key in saved if key.startswith(path.embedder)}
    assert kept == set(unchanged) - without_effect(name)


def without_effect(name: str) -> set[str]:
    """List what Qwen-Image's last block makes of its text, which feeds nothing and is frozen."""
    if name == "sd21":
        return set()
    last = f"transformer_blocks.{MMDIT['num_layers'] - 1}"
    parts = [f"{last}.{part}" for part in ("txt_mlp.net.0.proj", "txt_mlp.net.2")]
    return {
        f"{p}.{kind}" for p in [*parts, f"{last}.attn.to_add_out"] for kind in ("weight", "bias")
    }


@pytest.mark.parametrize("name", BACKBONES)
def test_untouched_vectors_are_published_with_the_published_biases(
    networks: Path, tmp_path: Path, name: str
) -> None:
    backbone = FAMILIES[name](networks / name)
    backbone.fold_time()
    backbone.save_trained(tmp_path, "full", weights=networks / name)
    published = load_file(networks / name / backbone.generator_folder / WEIGHTS)
    saved = load_file(tmp_path / backbone.generator_folder / WEIGHTS)
    assert all(torch.equal(saved[key], published[key]) for key in published)


def test_matrices_come_from_shards_of_bfloat16_as_qwen_image_is_published(
    networks: Path, tmp_path: Path
) -> None:
    sharded = FAMILIES["qwen"](networks / "qwen").generator.to(torch.bfloat16)
    shutil.copytree(networks / "qwen" / "vae", tmp_path / "vae")
    sharded.save_pretrained(tmp_path / "transformer", max_shard_size="40KB")
    assert len(list((tmp_path / "transformer").glob("*.safetensors"))) > 2
    backbone = folded_and_trained(tmp_path, "qwen")
    before = stepped(backbone)
    backbone.save_trained(tmp_path / "out", "full", weights=tmp_path)
    again = FAMILIES["qwen"](tmp_path, generator=tmp_path / "out" / "transformer").float()
    torch.testing.assert_close(stepped(again), before, atol=1e-5, rtol=0)
    saved = load_file(tmp_path / "out" / "transformer" / WEIGHTS)
    assert saved["norm_out.linear.weight"].dtype == torch.bfloat16  # as published, half the room
    assert saved["norm_out.linear.bias"].dtype == torch.float32


def test_what_cannot_be_published_from_vectors_is_refused(networks: Path, tmp_path: Path) -> None:
    backbone = begun(networks, "sd21", "lora")
    backbone.fold_time()
    with pytest.raises(ValueError, match="low-rank layers cannot be saved from it"):
        backbone.save_trained(tmp_path, "lora", weights=networks / "sd21")
    whole = folded_and_trained(networks / "sd21", "sd21")
    with pytest.raises(ValueError, match="only with `weights`"):
        whole.save_trained(tmp_path, "full")
    other = tmp_path / "other" / "unet"
    shutil.copytree(networks / "qwen" / "transformer", other)
    with pytest.raises(ValueError, match=r"other/unet lacks down_blocks.* give the weights that"):
        whole.save_trained(tmp_path, "full", weights=other.parent)


def test_a_transformer_that_modulates_its_condition_apart_is_refused() -> None:
    with pytest.raises(ValueError, match="zero_cond_t: it modulates the condition at t = 0"):
        FAMILIES["qwen"].of_sizes({"base_dim": 8, "z_dim": 4}, {**MMDIT, "zero_cond_t": True})


@pytest.mark.parametrize("name", BACKBONES)
def test_autocast_gives_vectors_as_it_gives_the_layers_output(networks: Path, name: str) -> None:
    backbone = FAMILIES[name](networks / name)
    backbone.fold_time()
    (vector, *_) = [m for m in backbone.generator.modules() if isinstance(m, TimeVector)]
    assert vector(torch.zeros(2, 3)).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert vector(torch.zeros(2, 3)).dtype == torch.bfloat16
