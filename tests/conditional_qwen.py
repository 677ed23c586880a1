"""Qwen-Image with low-rank layers for its condition, written out a second time in plain torch.

Where the product adds a low-rank part to a layer, here are two networks: z_t's tokens see the
weights w, z_cond's see w2 = w + B A in every layer that has one. B batch, N tokens, C width.
"""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.small_networks import MMDIT

SIGMA = 0.436125430784867
HEADS, WIDTH = MMDIT["num_attention_heads"], MMDIT["attention_head_dim"]
Weights = Mapping[str, Tensor]


def quick_gelu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-1.702 * x))


def tanh_gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def with_low_rank(weights: Weights, parts: Weights, scale: float) -> dict[str, Tensor]:
    """Return all weights, with scale · B A added where there are such parts."""
    changed = dict(weights)
    for name in parts:
        if name.endswith(".lora_A"):
            layer = name.removesuffix(".lora_A")
            product = parts[f"{layer}.lora_B"] @ parts[name]
            changed[f"{layer}.weight"] = weights[f"{layer}.weight"] + scale * product
    return changed


def velocity(
    w: Weights,
    w2: Weights,
    z_t: Tensor,
    z_cond: Tensor,
    text: Tensor,
    rotary: tuple[Tensor, Tensor],
    gelu: Callable[[Tensor], Tensor],
) -> Tensor:
    """Predict the velocity of packed z_t (B, N, C); `rotary`: of one picture and of the text."""
    embedding = embedded_time(w)
    streams = [linear(w, "img_in", z_t), linear(w2, "img_in", z_cond)]
    text = rms(text) * w["txt_norm.weight"]
    text = linear(w, "txt_in", text)
    for index in range(MMDIT["num_layers"]):
        streams, text = block(index, w, w2, streams, text, embedding, rotary, gelu)
    scale, shift = linear(w, "norm_out.linear", silu(embedding)).chunk(2, dim=-1)
    return linear(w, "proj_out", normed(streams[0]) * (1 + scale) + shift)


def block(
    index: int,
    w: Weights,
    w2: Weights,
    streams: list[Tensor],
    text: Tensor,
    embedding: Tensor,
    rotary: tuple[Tensor, Tensor],
    gelu: Callable[[Tensor], Tensor],
) -> tuple[list[Tensor], Tensor]:
    prefix = f"transformer_blocks.{index}"
    # Of each part: its weights, its tokens, the names of its layers.
    image = ("img_mod.1", "attn.to_q attn.to_k attn.to_v attn.norm_q attn.norm_k", "attn.to_out.0")
    words = (
        "txt_mod.1",
        "attn.add_q_proj attn.add_k_proj attn.add_v_proj attn.norm_added_q attn.norm_added_k",
        "attn.to_add_out",
    )
    parts = [(w, text, words, "txt_mlp"), (w, streams[0], image, "img_mlp")]
    parts.append((w2, streams[1], image, "img_mlp"))

    heads, gates = [], []
    for (weights, x, (modulation, names, _), _), positions in zip(
        parts, (rotary[1], rotary[0], rotary[0]), strict=True
    ):
        six = linear(weights, f"{prefix}.{modulation}", silu(embedding)).chunk(6, dim=-1)
        y = normed(x) * (1 + six[1]) + six[0]
        q, k, v, norm_q, norm_k = (f"{prefix}.{name}" for name in names.split())
        of_heads = [linear(weights, name, y).unflatten(-1, (HEADS, WIDTH)) for name in (q, k, v)]
        query = turned(rms(of_heads[0]) * weights[f"{norm_q}.weight"], positions)
        key = turned(rms(of_heads[1]) * weights[f"{norm_k}.weight"], positions)
        heads.append((query, key, of_heads[2]))
        gates.append(six)

    query, key, value = (
        torch.cat(each, dim=1).transpose(1, 2) for each in zip(*heads, strict=True)
    )
    scores = (query @ key.mT / math.sqrt(WIDTH)).softmax(dim=-1)
    attended = (scores @ value).transpose(1, 2).flatten(2)
    results = []
    for (weights, x, (_, _, out), mlp), seen, six in zip(
        parts, attended.split([part[1].shape[1] for part in parts], dim=1), gates, strict=True
    ):
        x = x + six[2] * linear(weights, f"{prefix}.{out}", seen)
        y = normed(x) * (1 + six[4]) + six[3]
        y = linear(
            weights, f"{prefix}.{mlp}.net.2", gelu(linear(weights, f"{prefix}.{mlp}.net.0.proj", y))
        )
        results.append(x + six[5] * y)
    return results[1:], results[0]


def embedded_time(w: Weights) -> Tensor:
    angles = 1000 * SIGMA * torch.exp(-math.log(10000) * torch.arange(128) / 128)
    x = torch.cat([torch.cos(angles), torch.sin(angles)])
    name = "time_text_embed.timestep_embedder.linear"
    return linear(w, f"{name}_2", silu(linear(w, f"{name}_1", x)))


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def normed(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def rms(x: Tensor) -> Tensor:
    return x / (x.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt()


def turned(x_BNHW: Tensor, positions_NW: Tensor) -> Tensor:
    pairs = torch.view_as_complex(x_BNHW.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * positions_NW[:, None]).flatten(-2)
