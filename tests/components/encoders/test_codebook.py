"""OSDFace's codebook against its published computation, written out from the published names."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from components.encoders import codebook
from components.encoders.codebook import Codebook, CodebookSizes
from tests.published_layouts import CODE, CODES, WIDTHS, codebook_shapes, drawn, faces

TENSORS = drawn(codebook_shapes(), 4)


def at(name: str) -> tuple[Tensor, Tensor]:
    return TENSORS[f"vqvae_LQ.{name}.weight"], TENSORS[f"vqvae_LQ.{name}.bias"]


def norm(x: Tensor, name: str) -> Tensor:
    """Normalise 32 groups of channels, each over all positions."""
    grouped = x.reshape(len(x), 32, -1)
    centred = grouped - grouped.mean(-1, keepdim=True)
    scaled = centred / (grouped.var(-1, keepdim=True, correction=0) + 1e-6).sqrt()
    weight, bias = at(name)
    return scaled.reshape(x.shape) * weight[:, None, None] + bias[:, None, None]


def swish(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def block(x: Tensor, name: str) -> Tensor:
    h = F.conv2d(swish(norm(x, f"{name}.norm1")), *at(f"{name}.conv1"), padding=1)
    h = F.conv2d(swish(norm(h, f"{name}.norm2")), *at(f"{name}.conv2"), padding=1)
    if f"vqvae_LQ.{name}.nin_shortcut.weight" in TENSORS:
        x = F.conv2d(x, *at(f"{name}.nin_shortcut"))
    return x + h


def attention(x: Tensor, name: str) -> Tensor:
    h = norm(x, f"{name}.norm1")
    q, k, v = (F.conv2d(h, *at(f"{name}.{part}")).flatten(2) for part in "qkv")
    scores = torch.einsum("bci,bcj->bij", q, k) / x.shape[1] ** 0.5
    looked = torch.einsum("bij,bcj->bci", scores.softmax(-1), v).reshape(x.shape)
    return x + F.conv2d(looked, *at(f"{name}.proj_out"))


def published_vectors(image: Tensor, side: int) -> Tensor:
    signed = F.interpolate(image * 2 - 1, (side, side), mode="bilinear", align_corners=False)
    x = F.conv2d((signed - 0.5) / 0.5, *at("encoder.conv_in"), padding=1)
    x = block(block(x, "encoder.down.0.block.0"), "encoder.down.0.block.1")
    x = F.conv2d(F.pad(x, (0, 1, 0, 1)), *at("encoder.down.0.downsample.conv"), stride=2)
    for part in ("0", "1"):
        x = block(x, f"encoder.down.1.block.{part}")
        x = attention(x, f"encoder.down.1.attn.{part}")
    x = attention(block(x, "encoder.mid.block_1"), "encoder.mid.attn_1")
    x = block(x, "encoder.mid.block_2")
    x = F.conv2d(swish(norm(x, "encoder.norm_out")), *at("encoder.conv_out"), padding=1)
    return F.conv2d(x, *at("quant_conv"))


def published_tokens(vectors: np.ndarray, codes: np.ndarray, count: int) -> np.ndarray:
    """Take each position's nearest code, the surest first, and each code once."""
    distances = np.sqrt(((vectors[:, None] - codes[None]) ** 2).sum(-1))
    tokens = np.zeros((count, codes.shape[1]))
    chosen: list[int] = []
    for position in np.argsort(distances.min(1)):
        code = int(distances[position].argmin())
        if code not in chosen and len(chosen) < count:
            tokens[len(chosen)] = codes[code]
            chosen.append(code)
    return tokens


def network(*, num_tokens: int, input_size: int = 32) -> Codebook:
    tensors = codebook.published(TENSORS)
    sizes = CodebookSizes.of({name: tensor.shape for name, tensor in tensors.items()})
    made = Codebook(sizes, input_size=input_size, num_tokens=num_tokens)
    made.load_state_dict(tensors)
    return made


@pytest.mark.parametrize(("num_tokens", "input_size"), [(4, 32), (77, 48)])
def test_the_tokens_are_those_of_the_published_computation(
    num_tokens: int, input_size: int
) -> None:
    image = faces(2)
    found = network(num_tokens=num_tokens, input_size=input_size)(image)
    vectors = published_vectors(image, input_size).double().flatten(2).transpose(1, 2).numpy()
    codes = TENSORS["vqvae_LQ.quantize.embedding.weight"].double().numpy()
    expected = np.stack([published_tokens(one, codes, num_tokens) for one in vectors])
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)
    filled = np.abs(expected).sum(-1) > 0
    assert filled[:, :3].all()  # several codes, so that their order is compared
    assert filled.all() == (num_tokens == 4)  # else rows are left, which are zero


def test_the_sizes_are_found_in_the_tensors() -> None:
    tensors = codebook.published(TENSORS)
    sizes = CodebookSizes.of({name: tensor.shape for name, tensor in tensors.items()})
    assert sizes == CodebookSizes(WIDTHS, 2, frozenset({1}), CODE, CODES)
    assert sizes.input_size == 32
    assert not any(".attn_1.norm2." in name for name in tensors)


def test_the_published_sizes_are_the_default() -> None:
    with torch.device("meta"):
        made = Codebook(CodebookSizes())
    assert CodebookSizes().input_size == made.input_size == 512
    shapes = {name: tuple(tensor.shape) for name, tensor in made.state_dict().items()}
    assert CodebookSizes.of(shapes) == CodebookSizes()
    assert shapes["encoder.down.5.attn.1.proj_out.weight"] == (512, 512, 1, 1)
    assert shapes["encoder.down.4.block.0.nin_shortcut.weight"] == (256, 128, 1, 1)
    assert "encoder.down.5.downsample.conv.weight" not in shapes
