"""Low-rank layers for the condition alone, against a transcription with two sets of weights."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from components.backbones.backbone import Backbone
from components.backbones.conditional_lora import FILE, Mlp
from components.backbones.fixed_time import TimeVector, is_folded
from components.backbones.qwen_image import QwenImage, pack, unpack
from components.backbones.second_encoder import SecondEncoder
from components.backbones.stable_diffusion import StableDiffusion
from components.restorers.folder import load_restorer
from components.restorers.spec import Need
from components.training.step import Batch
from components.weights.lora import LoraParams
from components.weights.store import open_weights
from tests import conditional_qwen as transcription
from tests.components.training.test_precision import training
from tests.small_networks import MMDIT, SIZE

LORA = LoraParams(rank=3, alpha=6)
NUM_LAYERS = 1 + 7 * MMDIT["num_layers"]
GELU: dict[Mlp, Callable[[Tensor], Tensor]] = {
    "gelu": transcription.tanh_gelu,
    "quick_gelu": transcription.quick_gelu,
}


def begun(networks: Path, mlp: Mlp = "gelu") -> QwenImage:
    """Load Qwen-Image with low-rank parts that do something."""
    backbone = QwenImage(networks / "qwen").float()
    backbone.change_base(mlp, "stored")
    backbone.train_only("conditional_lora", LORA)
    torch.manual_seed(4)
    with torch.no_grad():
        for parameter in backbone.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.3)
    return backbone


def inputs(backbone: Backbone, rows: int = 2) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(3)
    z_t, z_cond, noise = torch.randn(3, rows, 4, 8, 8, generator=draw)
    return z_t, z_cond, noise, torch.randn(rows, 5, backbone.condition_width, generator=draw)


@torch.no_grad()
def transcribed(
    backbone: QwenImage, z_t: Tensor, z_cond: Tensor, text: Tensor, mlp: Mlp = "gelu"
) -> Tensor:
    """Predict the velocity by the transcription, from an unfolded generator's weights."""
    tensors = backbone.generator.state_dict()
    parts = {name: tensor for name, tensor in tensors.items() if ".lora_" in name}
    second = transcription.with_low_rank(tensors, parts, LORA.alpha / LORA.rank)
    frame = (1, z_t.shape[2] // 2, z_t.shape[3] // 2)
    rotary = backbone.generator.pos_embed.positions(
        [[frame]], max_txt_seq_len=text.shape[1], device=text.device
    )
    packed = pack(z_t), pack(z_cond)
    tokens = transcription.velocity(tensors, second, *packed, text, rotary, GELU[mlp])
    return unpack(tokens, *z_t.shape[2:])


@pytest.mark.parametrize("mlp", ["gelu", "quick_gelu"])
def test_each_half_has_its_own_weights_and_modulation_folded_or_not(
    networks: Path, mlp: Mlp
) -> None:
    backbone = begun(networks, mlp)
    z_t, z_cond, _, text = inputs(backbone)
    expected = transcribed(backbone, z_t, z_cond, text, mlp)
    with torch.no_grad():
        unfolded = backbone._velocity(z_t, z_cond, text)
        backbone.fold_time()
        folded = backbone._velocity(z_t, z_cond, text)
    torch.testing.assert_close(unfolded, expected, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(folded, expected, atol=2e-5, rtol=1e-4)
    vectors = [m.vector for m in backbone.generator.modules() if isinstance(m, TimeVector)]
    assert sum(vector.dim() == 2 for vector in vectors) == MMDIT["num_layers"]
    assert is_folded(backbone.generator)


def test_it_is_another_model_than_an_ordinary_lora_and_begins_as_the_base(networks: Path) -> None:
    base, started, moved = (
        QwenImage(networks / "qwen"),
        QwenImage(networks / "qwen"),
        begun(networks),
    )
    started.train_only("conditional_lora", LORA)
    z_t, z_cond, _, text = inputs(base)
    with torch.no_grad():
        first = base._velocity(z_t, z_cond, text)
        torch.testing.assert_close(started._velocity(z_t, z_cond, text), first)
        tensors = moved.generator.state_dict()
        both = transcription.with_low_rank(tensors, tensors, LORA.alpha / LORA.rank)
        base.generator.load_state_dict({k: both[k] for k in base.generator.state_dict()})
        ordinary = base._velocity(z_t, z_cond, text)
        ours = moved._velocity(z_t, z_cond, text)
    assert float((ours - first).abs().mean()) > 1e-3
    assert float((ours - ordinary).abs().mean()) > 1e-3


def test_only_the_low_rank_parts_train_and_all_of_them_get_a_gradient(networks: Path) -> None:
    backbone = begun(networks)
    z_t, _, noise, text = inputs(backbone)
    backbone.generator.enable_gradient_checkpointing()
    drawn = backbone.inference_noise(noise, 0.5)
    backbone.train().step(z_t, text.requires_grad_(), drawn).square().sum().backward()
    trained = {n: p for n, p in backbone.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * NUM_LAYERS
    assert {name.rpartition(".")[2] for name in trained} == {"lora_A", "lora_B"}
    assert [name for name, p in trained.items() if p.grad is None] == []  # DDP would wait
    # What the last block makes of the condition feeds nothing: no gradient but zero.
    last = f"transformer_blocks.{MMDIT['num_layers'] - 1}"
    dead = {f"{last}.{name}" for name in ("attn.to_q", "attn.to_out.0", "img_mlp.net.0.proj")}
    still = {
        name.removeprefix("generator.").rpartition(".")[0]
        for name, p in trained.items()
        if p.grad is not None and not p.grad.any()
    }
    assert still == dead | {f"{last}.img_mlp.net.2"}


def test_it_is_saved_by_the_names_of_the_generators_layers_and_loaded_as_it_was(
    networks: Path, tmp_path: Path
) -> None:
    backbone = begun(networks)
    backbone.save_trained(tmp_path, "conditional_lora")
    assert [file.name for file in tmp_path.iterdir()] == [FILE]
    assert len(load_file(tmp_path / FILE)) == 2 * NUM_LAYERS
    again = QwenImage(networks / "qwen")
    again.load_low_rank(tmp_path, "conditional_lora", LORA)
    z_t, z_cond, _, text = inputs(backbone)
    with torch.no_grad():
        expected = backbone._velocity(z_t, z_cond, text)
        assert torch.equal(again._velocity(z_t, z_cond, text), expected)
    other = QwenImage(networks / "qwen")
    with pytest.raises(ValueError, match=r"conditional_lora.safetensors is of another generator"):
        other.load_low_rank(tmp_path, "conditional_lora", LORA.model_copy(update={"rank": 2}))
    backbone.fold_time()
    with pytest.raises(ValueError, match="low-rank layers cannot be saved from it"):
        backbone.save_trained(tmp_path, "conditional_lora")


def test_the_second_encoder_makes_what_is_restored_and_the_frozen_one_the_condition(
    networks: Path, tmp_path: Path
) -> None:
    backbone, alone = begun(networks), QwenImage(networks / "qwen")
    altered = QwenImage(networks / "qwen")
    with torch.no_grad():
        for parameter in altered.vae.encoder.parameters():
            parameter.mul_(1.1)
    backbone.second_encoder = SecondEncoder(altered.vae)
    backbone.save_trained(tmp_path, "conditional_lora")
    again = QwenImage(networks / "qwen")
    again.load_low_rank(tmp_path, "conditional_lora", LORA)

    _, _, noise, text = inputs(again)
    image = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    condition, start = alone.encode(image), altered.encode(image)
    assert float((condition - start).abs().mean()) > 1e-3
    latents = again.encode(image)
    assert torch.equal(latents, torch.cat([condition, start], dim=1))
    assert again.noise_shape(latents) == noise.shape[1:]
    sigma, drawn = transcription.SIGMA, again.inference_noise(noise, 0.5)
    z_t = (1 - sigma) * start + sigma * noise
    s = float(drawn.condition_sigma_B[0])
    z_cond = (1 - s) * condition + s * noise
    expected = z_t - sigma * transcribed(again, z_t, z_cond, text)
    with torch.no_grad():
        restored = again.step(latents, text, drawn)
    torch.testing.assert_close(restored, expected, atol=2e-5, rtol=1e-4)


def test_numbers_of_8_bits_are_those_of_e4m3(networks: Path) -> None:
    backbone = QwenImage(networks / "qwen")
    before = {name: t.clone() for name, t in backbone.generator.state_dict().items()}
    backbone.change_base("gelu", "float8")
    after = backbone.generator.state_dict()
    weight = before["img_in.weight"].double()
    # 3 bits after the point at each power of two, from 2 ** -6; below, steps of 2 ** -9.
    step = 2.0 ** (weight.abs().log2().floor().clamp(min=-6) - 3)
    assert torch.equal(after["img_in.weight"].double(), (weight / step).round() * step)
    assert not torch.equal(after["img_in.weight"], before["img_in.weight"])
    assert torch.equal(after["txt_norm.weight"], before["txt_norm.weight"])


def test_layers_and_families_that_see_no_condition_are_refused(networks: Path) -> None:
    with pytest.raises(ValueError, match=r"lora.targets: attn.add_q_proj sees no condition"):
        QwenImage(networks / "qwen").train_only(
            "conditional_lora", LORA.model_copy(update={"targets": ("attn.add_q_proj",)})
        )
    with pytest.raises(ValueError, match="StableDiffusion does not train as conditional_lora"):
        StableDiffusion(networks / "sd21").train_only("conditional_lora", LORA)
    with pytest.raises(ValueError, match="StableDiffusion has no quick_gelu"):
        StableDiffusion(networks / "sd21").change_base("quick_gelu", "stored")
    with pytest.raises(ValueError, match="'conditional_lora' but the lora section"):
        QwenImage(networks / "qwen").train_only("conditional_lora", None)


def test_what_was_trained_restores_from_its_folder_as_it_did_in_training(
    networks: Path, tmp_path: Path
) -> None:
    spec = {"condition": "text", "encoder_size": None, "trainable": "conditional_lora"}
    made = training(networks, "qwen", "float32", **spec, lora=LORA)
    weights = open_weights(networks / "qwen")
    need = Need(name="qwen", fingerprint=weights.fingerprint, hint=str(networks / "qwen"))
    made = made.model_copy(update={"needs": {"backbone": need}})
    step, _ = made.start(torch.device("cpu"))
    draw = torch.Generator().manual_seed(1)
    hq = torch.rand(2, 3, SIZE, SIZE, generator=draw)
    lq_latent, hq_latent = torch.randn(2, 2, 4, SIZE // 2, SIZE // 2, generator=draw)
    before = step.restorer.restore(hq, ["a", "b"], [0, 0]).restored_B3HW
    optimizer = torch.optim.AdamW([p for p in step.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        loss = step(Batch(hq, lq_latent, hq_latent, None, None), draw)["loss"]
        torch.autograd.backward(loss)
        optimizer.step()
    trained = step.restorer.restore(hq, ["a", "b"], [0, 0]).restored_B3HW
    assert float((trained - before).abs().max()) > 2 / 255
    made.export(step, tmp_path, is_first_rank=True)
    restored = load_restorer(tmp_path).restore(hq, ["a", "b"], [0, 0]).restored_B3HW
    # Folding rounds vectors otherwise, which an 8-bit picture may show.
    assert float((restored - trained).abs().max()) <= 1.01 / 255
    assert float((restored - trained).abs().mean()) < 1e-5
