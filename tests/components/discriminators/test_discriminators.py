"""SDXL's and Wan's discriminators in the published layout, with small random weights."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from components.backbones.stable_diffusion import StableDiffusion
from components.discriminators.catalogue import DISCRIMINATORS, discriminator_named
from components.discriminators.discriminator import (
    Discriminator,
    DiscriminatorCondition,
    DiscriminatorOptions,
    Draw,
)
from components.discriminators.sdxl import SdxlDiscriminator, load_encoding_half
from components.discriminators.wan import WanDiscriminator
from components.weights.lora import LoraParams
from tests.small_networks import SEES

WIDTH = 24  # of the condition
LORA = LoraParams(rank=2, alpha=2)


def make(
    networks: Path,
    backbone: str,
    lora: LoraParams | None = None,
    *,
    noisy_input: bool = False,
    condition: DiscriminatorCondition | None = None,
) -> Discriminator:
    torch.manual_seed(0)
    kind = discriminator_named(f"{backbone}-discriminator")
    assert kind is not None
    folder = networks / f"{backbone}-discriminator"
    options = DiscriminatorOptions(
        lora=lora, noisy_input=noisy_input, condition=condition or SEES[backbone]
    )
    return kind(folder, WIDTH, options)


def inputs(batch: int = 2) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    return (
        torch.randn(batch, 4, 16, 16, generator=draw),
        torch.randn(batch, 5, WIDTH, generator=draw),
    )


@pytest.mark.parametrize(("backbone", "grid"), [("sd21", 2), ("qwen", 16)])
def test_every_patch_gets_one_float32_logit(networks: Path, backbone: str, grid: int) -> None:
    discriminator = make(networks, backbone)
    latent, condition = inputs()
    draw = discriminator.draw(latent, torch.Generator().manual_seed(2))
    logits = discriminator(latent, condition, draw)
    assert logits.shape == (2, 1, grid, grid)
    assert logits.dtype == torch.float32
    alone = discriminator(
        latent[:1], condition[:1], Draw(*(None if part is None else part[:1] for part in draw))
    )
    torch.testing.assert_close(logits[:1], alone, rtol=1e-4, atol=1e-5)


def test_the_encoding_half_computes_what_the_whole_unet_has_in_its_middle(networks: Path) -> None:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    discriminator = make(networks, "sd21")
    assert isinstance(discriminator, SdxlDiscriminator)
    latent, condition = inputs()
    whole = UNet2DConditionModel.from_pretrained(networks / "sd21-discriminator" / "unet")
    middle: list[Tensor] = []
    whole.mid_block.register_forward_hook(lambda _module, _inputs, output: middle.append(output))
    size = torch.tensor([[128.0, 128, 0, 0, 128, 128]]).expand(2, -1)
    text = discriminator.to_text(condition.mean(dim=1))
    with torch.no_grad():
        whole(
            latent,
            0,
            discriminator.to_tokens(condition),
            added_cond_kwargs={"text_embeds": text, "time_ids": size},
        )
        logits = discriminator(latent, condition, discriminator.draw(latent, torch.Generator()))
        torch.testing.assert_close(logits, discriminator.head(middle[0]))


def test_of_sdxl_only_the_half_that_is_used_must_be_there(networks: Path, tmp_path: Path) -> None:
    source = networks / "sd21-discriminator" / "unet"
    file = "diffusion_pytorch_model.safetensors"
    (tmp_path / "config.json").write_bytes((source / "config.json").read_bytes())
    tensors = load_file(source / file)
    half = {name: value for name, value in tensors.items() if not name.startswith("up_blocks")}
    save_file(half, tmp_path / file)
    unet = load_encoding_half(tmp_path)
    assert not list(unet.up_blocks)
    assert sum(p.numel() for p in unet.parameters()) < 0.6 * sum(
        v.numel() for v in tensors.values()
    )
    del half["mid_block.resnets.0.conv1.weight"]
    save_file(half, tmp_path / file)
    with pytest.raises(ValueError, match=r"lacks 1 tensors, e.g. mid_block.resnets.0.conv1.weight"):
        load_encoding_half(tmp_path)
    with pytest.raises(ValueError, match="is not SDXL's UNet"):
        load_encoding_half(networks / "sd21" / "unet")


@pytest.mark.parametrize("backbone", ["sd21", "qwen"])
def test_lora_trains_low_rank_layers_and_the_head_and_without_it_all_trains(
    networks: Path, backbone: str
) -> None:
    low_rank, full = make(networks, backbone, LORA), make(networks, backbone)
    trained = [name for name, p in low_rank.named_parameters() if p.requires_grad]
    assert any("lora_A" in name for name in trained)
    assert any(name.startswith("head") for name in trained)
    assert all("lora_" in name or name.startswith(("head", "to_")) for name in trained)
    assert all(parameter.requires_grad for parameter in full.parameters())
    # B is zero at first: the same logits.
    latent, condition = inputs()
    draw = full.draw(latent, torch.Generator().manual_seed(2))
    heads = {
        name: value for name, value in full.state_dict().items() if name.startswith(("head", "to_"))
    }
    low_rank.load_state_dict(heads, strict=False)
    torch.testing.assert_close(low_rank(latent, condition, draw), full(latent, condition, draw))


def test_sdxl_takes_the_generators_targets_of_its_half() -> None:
    missing = set(StableDiffusion.lora_targets) - set(SdxlDiscriminator.lora_targets)
    assert missing == {"upsamplers.0.conv"}


def test_noise_of_the_drawn_timestep_is_mixed_in_first(networks: Path) -> None:
    discriminator = make(networks, "sd21", noisy_input=True)
    latent, condition = inputs()
    draw = discriminator.draw(latent, torch.Generator().manual_seed(3))
    assert draw.noise_BCHW is not None
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    signal = torch.cumprod(1 - betas, 0)[draw.timestep_B].view(-1, 1, 1, 1)
    noisy = (signal.sqrt() * latent + (1 - signal).sqrt() * draw.noise_BCHW).float()
    expected = discriminator(noisy, condition, Draw(draw.timestep_B))
    torch.testing.assert_close(discriminator(latent, condition, draw), expected)
    with pytest.raises(ValueError, match="Wan looks at clean latents"):
        make(networks, "qwen", noisy_input=True)
    with pytest.raises(ValueError, match=r"condition = tokens: Wan takes a constant prompt"):
        make(networks, "qwen", condition="tokens")


def test_wans_timesteps_are_shifted_towards_noise_and_its_text_is_constant(networks: Path) -> None:
    discriminator = make(networks, "qwen")
    assert isinstance(discriminator, WanDiscriminator)
    latent, condition = inputs(batch=2000)
    timestep_B = discriminator.draw(latent, torch.Generator().manual_seed(4)).timestep_B
    assert timestep_B.min() >= 0
    assert timestep_B.max() <= 1000
    # u = 1/2 becomes 3/4: half of the timesteps lie above.
    assert timestep_B.median().item() == pytest.approx(750, abs=25)
    few, draw = latent[:2], Draw(timestep_B[:2])
    same = discriminator(few, torch.zeros(2, 5, WIDTH), draw)
    torch.testing.assert_close(discriminator(few, condition[:2], draw), same)


def test_sdxl_can_look_with_one_prompt_for_all_faces(networks: Path, tmp_path: Path) -> None:
    source = networks / "sd21-discriminator"
    shutil.copytree(source, tmp_path / "sd21-discriminator")
    with pytest.raises(FileNotFoundError, match="there is no constant prompt"):
        make(tmp_path, "sd21", condition="prompt")
    file = tmp_path / "sd21-discriminator" / "prompt.safetensors"
    save_file({"prompt": torch.randn(7, 24), "pooled": torch.randn(16)}, file)
    discriminator = make(tmp_path, "sd21", condition="prompt")
    assert not any(name.startswith("to_") for name, _ in discriminator.named_parameters())
    latent, condition = inputs()
    draw = discriminator.draw(latent, torch.Generator().manual_seed(5))
    logits = discriminator(latent, condition, draw)
    torch.testing.assert_close(discriminator(latent, torch.zeros_like(condition), draw), logits)
    save_file({"prompt": torch.randn(7, 24), "pooled": torch.randn(16)}, file)
    other = make(tmp_path, "sd21", condition="prompt")(latent, condition, draw)
    assert not torch.allclose(other, logits, atol=1e-4)


def test_names_of_weights_lead_to_a_backbones_opponent() -> None:
    assert discriminator_named("sd21-discriminator") is DISCRIMINATORS["sdxl"]
    assert discriminator_named("qwen-discriminator") is DISCRIMINATORS["wan"]
    assert discriminator_named("sd21") is None
    assert discriminator_named("nothing-discriminator") is None


def test_the_published_sizes_have_the_published_parameters() -> None:
    """Counted on the meta device: 1.42 billion of Wan 2.1, and SDXL's half."""
    with torch.device("meta"):
        wan = WanDiscriminator.make_network(
            {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30, "text_dim": 4096}
        )
    assert sum(p.numel() for p in wan.parameters()) == pytest.approx(1.42e9, rel=0.01)
