"""The authors' files for Qwen-Image, of small random weights, read and restored."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from components import images
from components.backbones.qwen_image import QwenImage, pack, unpack
from components.fusion.projection import projection
from components.fusion.sdfm import SDFM
from components.keyed_random import normals
from components.restorers.folder import load_restorer
from components.restorers.hdrface import HDRFace, as_cached
from components.restorers.import_qwen import GENERATOR_FILE, import_qwen
from components.weights.store import open_model
from tests import conditional_qwen as transcription
from tests.offloading import assert_offloads
from tests.small_networks import DINO, MMDIT, QWEN_VAE, SIZE, trained

RANK = 3
INNER = MMDIT["num_attention_heads"] * MMDIT["attention_head_dim"]
# Of each block's layers: tokens' width in, and out. METHOD, section 4.
LAYERS = {
    "img_mod.1": (INNER, 6 * INNER),
    **{f"attn.{name}": (INNER, INNER) for name in ("to_q", "to_k", "to_v", "to_out.0")},
    "img_mlp.net.0.proj": (INNER, 4 * INNER),
    "img_mlp.net.2": (4 * INNER, INNER),
}


def low_rank_layers() -> dict[str, tuple[int, int]]:
    blocks = {
        f"transformer_blocks.{index}.{name}": widths
        for index in range(MMDIT["num_layers"])
        for name, widths in LAYERS.items()
    }
    return {"img_in": (MMDIT["in_channels"], INNER), **blocks}


def encoder_shapes() -> dict[str, tuple[int, ...]]:
    """Return the causal convolutions of an encoder of QWEN_VAE, by diffusers' names, by hand."""
    one, two = (QWEN_VAE["base_dim"] * factor for factor in QWEN_VAE["dim_mult"])
    latent = 2 * QWEN_VAE["z_dim"]
    convolutions = {
        "conv_in": (3, one, 3),
        **{f"down_blocks.0.conv{index}": (one, one, 3) for index in (1, 2)},
        "down_blocks.2.conv1": (one, two, 3),
        "down_blocks.2.conv2": (two, two, 3),
        "down_blocks.2.conv_shortcut": (one, two, 1),
        **{f"mid_block.resnets.{n}.conv{index}": (two, two, 3) for n in (0, 1) for index in (1, 2)},
        "conv_out": (two, latent, 3),
    }
    shapes: dict[str, tuple[int, ...]] = {}
    for name, (width_in, width_out, kernel) in convolutions.items():
        shapes[f"{name}.weight"] = (width_out, width_in, kernel, kernel, kernel)
        shapes[f"{name}.bias"] = (width_out,)
    return shapes


def published(draw: torch.Generator) -> dict[str, Tensor]:
    """Make `pretrained.pth` as the authors' code writes it: bfloat16, layers as `Linear`."""
    tensors = {}
    for name, (width_in, width_out) in low_rank_layers().items():
        for index in (1, 2):
            tensors[f"pipe.dit.{name}.lora_A{index}.weight"] = (RANK, width_in)
            tensors[f"pipe.dit.{name}.lora_B{index}.weight"] = (width_out, RANK)
    encoder = {f"pipe.new_vae.encoder.{name}": s for name, s in encoder_shapes().items()}
    return {
        name: (0.2 * torch.randn(shape, generator=draw)).bfloat16()
        for name, shape in {**tensors, **encoder}.items()
    }


Change = Callable[[dict[str, Tensor]], Mapping[str, Tensor]]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    draw = torch.Generator().manual_seed(11)
    folder = tmp_path / "release"
    folder.mkdir()
    torch.save(published(draw), folder / GENERATOR_FILE)
    torch.manual_seed(12)
    torch.save(SDFM(DINO["hidden_size"]).state_dict(), folder / "fusion.pth")
    linear = projection(DINO["hidden_size"], MMDIT["joint_attention_dim"])
    torch.save(linear.state_dict(), folder / "projection.pth")
    return folder


def change(source: Path, how: Change) -> None:
    file = source / GENERATOR_FILE
    torch.save(dict(how(torch.load(file, weights_only=True))), file)


def imported(source: Path, networks: Path, out: Path, **changes: Any) -> str:
    first = trained(source.parent, networks, "sd21", "text")
    options = {
        "base": networks / "qwen",
        "encoder": networks / "dinov3",
        "intermediate": first,
        "size": SIZE,
    }
    import_qwen(source, out, **(options | changes))
    return open_model(out).fingerprint


def faces() -> Tensor:
    return torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def transcribed(networks: Path, source: Path, lq: Tensor, tokens: tuple[Tensor, Tensor]) -> Tensor:
    """Restore with the authors' equations: two weights, two encoders, quick GELU, 8-bit base."""
    base, second = (QwenImage(networks / "qwen") for _ in range(2))
    found = torch.load(source / GENERATOR_FILE, weights_only=True)
    begin = "pipe.new_vae.encoder."
    second.vae.encoder.load_state_dict(
        {k.removeprefix(begin): t.float() for k, t in found.items() if k.startswith(begin)},
        strict=False,
    )
    linear = {name for name, m in base.generator.named_modules() if isinstance(m, nn.Linear)}
    weights = {
        name: tensor.to(torch.float8_e4m3fn).float()
        if name.rpartition(".")[0] in linear
        else tensor
        for name, tensor in base.generator.state_dict().items()
    }
    parts = {
        f"{name}.lora_{part}": found[f"pipe.dit.{name}.lora_{part}2.weight"].float()
        for name in low_rank_layers()
        for part in "AB"
    }
    doubled = transcription.with_low_rank(weights, parts, scale=1.0)

    gate, linear_layer = SDFM(DINO["hidden_size"]), nn.Linear(DINO["hidden_size"], 40)
    gate.load_state_dict(torch.load(source / "fusion.pth", weights_only=True))
    linear_layer.load_state_dict(torch.load(source / "projection.pth", weights_only=True))
    condition = linear_layer(gate(*tokens)[0])

    z_cond, start = as_cached(base.encode(lq)), as_cached(second.encode(lq))
    drawn = normals([(42, "", 0, "noise")] * len(lq), tuple(start.shape[1:]))
    sigma = transcription.SIGMA
    z_t = (1 - sigma) * start + sigma * torch.from_numpy(drawn)
    frame = (1, z_t.shape[2] // 2, z_t.shape[3] // 2)
    rotary = base.generator.pos_embed.positions(
        [[frame]], max_txt_seq_len=condition.shape[1], device=lq.device
    )
    velocity = transcription.velocity(
        weights, doubled, pack(z_t), pack(z_cond), condition, rotary, transcription.quick_gelu
    )
    return base.decode(z_t - sigma * unpack(velocity, *z_t.shape[2:])).clamp(0, 1)


def test_an_imported_folder_restores_as_the_authors_equations(
    source: Path, networks: Path, tmp_path: Path
) -> None:
    out = tmp_path / "models" / "authors"
    imported(source, networks, out)
    described = open_model(out)
    told = described.content["lineage"]["imported"]
    assert told["layout"] == "qwen"
    assert set(told["files"]) == {"pretrained.pth", "fusion.pth", "projection.pth"}
    assert set(described.needs) == {"backbone", "encoder", "intermediate"}
    assert described.content["mlp"] == "quick_gelu"  # less than 8-bit pictures show here

    restorer = load_restorer(out)
    assert isinstance(restorer, HDRFace)
    lq = images.to_tensor(images.from_tensor(faces()))
    restored = restorer.restore(lq, ["a", "b"], [0, 1])
    assert restored.intermediate_B3HW is not None
    assert restorer.encoder is not None
    tokens = tuple(
        as_cached(part)
        for part in restorer.encoder(torch.cat([restored.intermediate_B3HW, lq])).chunk(2)
    )
    expected = transcribed(networks, source, lq, tokens)  # type: ignore[arg-type]
    assert float(expected.std()) > 0.02
    assert float((restored.restored_B3HW - expected).abs().max()) <= 0.5 / 255 + 1e-4


def test_every_network_of_an_imported_folder_moves_with_the_pipeline(
    source: Path, networks: Path, tmp_path: Path
) -> None:
    imported(source, networks, tmp_path / "authors")
    assert_offloads(tmp_path / "authors", SIZE)


def wan(name: str) -> str:
    """Return the name in Wan's own spelling of its encoder."""
    for old, new in (
        ("conv_in", "conv1"),
        ("down_blocks", "downsamples"),
        ("mid_block.resnets.0", "middle.0"),
        ("mid_block.resnets.1", "middle.2"),
        ("conv_out", "head.2"),
    ):
        if name.startswith(old):
            head, _, tail = name.removeprefix(old).rpartition(".")
            block, _, layer = head.rpartition(".")
            layers = {"conv1": "residual.2", "conv2": "residual.6", "conv_shortcut": "shortcut"}
            return f"{new}{block}.{layers[layer]}.{tail}" if layer else f"{new}.{tail}"
    raise AssertionError(name)


def test_other_spellings_of_the_same_tensors_give_the_same_folder(
    source: Path, networks: Path, tmp_path: Path
) -> None:
    begin = "pipe.new_vae.encoder."

    def respelled(name: str) -> str:
        if name.startswith(begin):
            return begin + wan(name.removeprefix(begin))
        return name.removesuffix(".weight").replace(".to_out.0.", ".to_out.")

    expected = imported(source, networks, tmp_path / "one")
    change(source, lambda found: {respelled(name): tensor for name, tensor in found.items()})
    assert imported(source, networks, tmp_path / "two") == expected
    assert len(load_file(tmp_path / "two" / "conditional_lora.safetensors")) == 2 * len(
        low_rank_layers()
    )


def test_all_that_does_not_fit_is_named_and_nothing_is_written(
    source: Path, networks: Path, tmp_path: Path
) -> None:
    lost = "pipe.dit.transformer_blocks.1.attn.to_k.lora_B2"
    lost_encoder = "pipe.new_vae.encoder.conv_in.bias"
    wrong = "pipe.dit.transformer_blocks.0.img_mlp.net.2.lora_A1"

    def damaged(found: dict[str, Tensor]) -> dict[str, Tensor]:
        del found[f"{lost}.weight"], found[lost_encoder]
        found["pipe.dit.txt_in.lora_A2.weight"] = torch.zeros(RANK, 40)
        found["pipe.new_vae.decoder.conv_in.bias"] = torch.zeros(3)
        found[f"{wrong}.weight"] = torch.zeros(RANK, 7)
        return found

    change(source, damaged)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=r"release does not fit; nothing was written") as error:
        import_qwen(
            source,
            tmp_path / "models" / "authors",
            base=networks / "qwen",
            encoder=networks / "dinov3",
            intermediate=None,
            size=SIZE,
        )
    told = str(error.value)
    assert f"pretrained.pth lacks 2 tensors, e.g. {lost}, {lost_encoder}\n" in told
    unknown = "pipe.dit.txt_in.lora_A2, pipe.new_vae.decoder.conv_in.bias"
    assert f"pretrained.pth has no place for 2 tensors, e.g. {unknown}\n" in told
    shapes = f"({RANK}, 7), not ({RANK}, {4 * INNER})"
    assert f"has another shape of 1 tensors, e.g. {wrong} is {shapes}\n" in told
    assert sorted(tmp_path.rglob("*")) == before


def test_a_missing_file_or_a_folder_that_is_there_is_refused(
    source: Path, networks: Path, tmp_path: Path
) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(FileExistsError, match="there is there already"):
        imported(source, networks, tmp_path / "there")
    (source / "projection.pth").rename(source / "other.pth")
    with pytest.raises(FileNotFoundError, match=r"release holds no projection\.pth"):
        imported(source, networks, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_published_size_has_the_published_number_of_tensors() -> None:
    with torch.device("meta"):
        transformer, _ = QwenImage.make_generator({})
        vae = QwenImage.make_vae({"z_dim": 16})
    from components.backbones.conditional_lora import target_names
    from components.restorers.import_qwen import _trained

    assert len(target_names(transformer, QwenImage.lora_targets)) == 421  # METHOD, section 4
    assert len(_trained(vae.encoder)) == 48
