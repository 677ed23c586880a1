"""What a degraded face is made of: entries of a learnt codebook (OSDFace's visual tokenizer).

B batch, N positions of the face, H and W of the picture; D width of a code, K codes, T tokens. The
attribute names are the published keys, below `vqvae_LQ.` there.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NUM_TOKENS = 77
INPUT_SIZE = 512  # pixels of a side
POSITIONS = 16  # of a side of such a picture, after the last level
_PREFIX = "vqvae_LQ."
_GROUPS = 32
# The published attention has a second norm, for a second picture that is not given here.
_UNUSED = re.compile(r"\.attn(_1|\.\d+)\.norm2\.")


@dataclass(frozen=True)
class CodebookSizes:
    """The shape of the network; the defaults are the published one's."""

    widths: Sequence[int] = (64, 128, 128, 128, 256, 512)  # of the levels, each half as large
    num_blocks: int = 2  # in each level
    attentive: frozenset[int] = frozenset({5})  # the levels with attention
    code_width: int = 512
    num_codes: int = 1024

    @classmethod
    def of(cls, shapes: Mapping[str, Sequence[int]]) -> Self:
        """Return what the network's tensors, given as shapes by name, have for sizes.

        Where tensors disagree, most of them decide, so that a comparison names the few others.
        """
        found = re.findall(r"^encoder\.down\.(\d+)\.block\.(\d+)\.", "\n".join(shapes), re.M)
        if not found:
            return cls()
        num_levels = 1 + max(int(level) for level, _ in found)
        levels = [f"encoder.down.{level}." for level in range(num_levels)]
        return cls(
            widths=tuple(_common(shapes, f"{level}block.", cls.widths[-1]) for level in levels),
            num_blocks=1 + max(int(block) for _, block in found),
            attentive=frozenset(
                index
                for index, level in enumerate(levels)
                if any(name.startswith(f"{level}attn.") for name in shapes)
            ),
            code_width=_common(shapes, "quant_conv.", cls.code_width),
            num_codes=_common(shapes, "quantize.embedding.", cls.num_codes),
        )

    @property
    def input_size(self) -> int:
        """Pixels of a side of which the last level has as many positions as the published one."""
        return POSITIONS << (len(self.widths) - 1)


def _common(shapes: Mapping[str, Sequence[int]], prefix: str, otherwise: int) -> int:
    """Return the length that most tensors below a prefix have: their layers' width."""
    lengths = Counter(
        shape[0] for name, shape in shapes.items() if name.startswith(prefix) and shape
    )
    return lengths.most_common(1)[0][0] if lengths else otherwise


def published(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return published tensors by the names that they have here, without those that are unused."""
    return {
        name.removeprefix(_PREFIX): tensor
        for name, tensor in tensors.items()
        if not _UNUSED.search(name)
    }


class Codebook(nn.Module):
    """Describe a face by the entries of the codebook that lie nearest to its parts.

    A convolutional encoder makes a vector of each position, and the position takes its nearest
    code. The T tokens are the first T different codes in the order of that distance, the surest
    first; where a face has fewer, the rest is zero.

    Shape: image_B3HW, RGB in [0, 1] -> tokens_BTD, float32. The picture is resized to `input_size`
    with bilinear filtering, not antialiased, and normalised twice, to [-3, 1], as in training.
    """

    def __init__(
        self,
        sizes: CodebookSizes,
        *,
        input_size: int = INPUT_SIZE,
        num_tokens: int = NUM_TOKENS,
    ) -> None:
        super().__init__()
        self.input_size, self.num_tokens = input_size, num_tokens
        self.encoder = _Encoder(sizes)
        self.quant_conv = nn.Conv2d(sizes.code_width, sizes.code_width, kernel_size=1)
        self.quantize = _Codes(sizes.num_codes, sizes.code_width)

    @torch.no_grad()
    def forward(self, image_B3HW: Tensor) -> Tensor:
        size = (self.input_size, self.input_size)
        signed = F.interpolate(2 * image_B3HW - 1, size=size, mode="bilinear", align_corners=False)
        vectors_BDhw = self.quant_conv(self.encoder((signed - 0.5) / 0.5))
        return torch.stack(
            [
                self.quantize(vectors_Dhw.flatten(1).T, self.num_tokens)
                for vectors_Dhw in vectors_BDhw
            ]
        )


class _Codes(nn.Module):
    """The codebook: of a face's vectors_ND, the tokens_TD."""

    def __init__(self, num_codes: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_codes, width)

    def forward(self, vectors_ND: Tensor, num_tokens: int) -> Tensor:
        codes_KD = self.embedding.weight
        squares_NK = (
            vectors_ND.square().sum(dim=1, keepdim=True)
            + codes_KD.square().sum(dim=1)
            - 2 * vectors_ND @ codes_KD.T
        )
        distance_N, nearest_N = squares_NK.min(dim=1)
        surest_N = nearest_N[distance_N.argsort(stable=True)]
        different = list(dict.fromkeys(surest_N.tolist()))[:num_tokens]
        tokens_TD = codes_KD.new_zeros(num_tokens, codes_KD.shape[1])
        tokens_TD[: len(different)] = codes_KD[different]
        return tokens_TD


class _Encoder(nn.Module):
    """VQGAN's encoder: levels of residual blocks, each level half as large as the one before."""

    def __init__(self, sizes: CodebookSizes) -> None:
        super().__init__()
        widths, last = sizes.widths, len(sizes.widths) - 1
        self.conv_in = nn.Conv2d(3, widths[0], kernel_size=3, padding=1)
        self.down = nn.ModuleList(
            _Level(
                widths[max(level - 1, 0)],
                width,
                sizes.num_blocks,
                attends=level in sizes.attentive,
                shrinks=level < last,
            )
            for level, width in enumerate(widths)
        )
        self.mid = nn.ModuleDict(
            {
                "block_1": _Block(widths[-1], widths[-1]),
                "attn_1": _Attention(widths[-1]),
                "block_2": _Block(widths[-1], widths[-1]),
            }
        )
        self.norm_out = _norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], sizes.code_width, kernel_size=3, padding=1)

    def forward(self, pixels_B3HW: Tensor) -> Tensor:
        x = self.conv_in(pixels_B3HW)
        for module in (*self.down, *self.mid.values()):
            x = module(x)
        vectors_BDhw: Tensor = self.conv_out(F.silu(self.norm_out(x)))
        return vectors_BDhw


class _Level(nn.Module):
    """Residual blocks of one resolution, perhaps with attention after each; then half the size."""

    def __init__(
        self, width_in: int, width: int, num_blocks: int, *, attends: bool, shrinks: bool
    ) -> None:
        super().__init__()
        inputs = [width_in, *[width] * (num_blocks - 1)]
        self.block = nn.ModuleList(_Block(before, width) for before in inputs)
        self.attn = nn.ModuleList(_Attention(width) for _ in inputs if attends)
        self.downsample = _Downsample(width) if shrinks else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        for index, block in enumerate(self.block):
            x = block(x)
            if self.attn:
                x = self.attn[index](x)
        shrunk: Tensor = self.downsample(x)
        return shrunk


class _Downsample(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, kernel_size=3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        shrunk: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))  # a column right, a row below
        return shrunk


class _Block(nn.Module):
    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.norm1 = _norm(width_in)
        self.conv1 = nn.Conv2d(width_in, width, kernel_size=3, padding=1)
        self.norm2 = _norm(width)
        self.conv2 = nn.Conv2d(width, width, kernel_size=3, padding=1)
        self.nin_shortcut = nn.Conv2d(width_in, width, 1) if width_in != width else None

    def forward(self, x: Tensor) -> Tensor:
        residual = self.conv1(F.silu(self.norm1(x)))
        residual = self.conv2(F.silu(self.norm2(residual)))
        passed = x if self.nin_shortcut is None else self.nin_shortcut(x)
        return torch.add(passed, residual)


class _Attention(nn.Module):
    """Let the positions look at each other, with one head."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = _norm(width)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        seen = self.norm1(x_BCHW)
        query, key, value = (
            layer(seen).flatten(2).transpose(1, 2) for layer in (self.q, self.k, self.v)
        )
        looked_BNC = F.scaled_dot_product_attention(query, key, value)
        added: Tensor = self.proj_out(looked_BNC.transpose(1, 2).reshape(x_BCHW.shape))
        return x_BCHW + added


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(_GROUPS, width, eps=1e-6)
