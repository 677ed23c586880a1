"""Qwen-Image's rotary positions in real numbers: torch.compile cannot compile complex ones.

A pair of features (a, b) at a position with angle φ becomes (a cos φ - b sin φ, a sin φ + b cos φ):
what diffusers computes as (a + ib) · e^iφ.

B batch, S tokens, H heads, D features of a head.
"""

from typing import Any

import torch
from diffusers.models.transformers.transformer_qwenimage import QwenDoubleStreamAttnProcessor2_0
from torch import Tensor, nn

Angles = tuple[Tensor, Tensor]  # cos and sin, (S, 1, D / 2) each

_MAX_TEXT = 1024  # tokens of a prompt: what Qwen-Image's own pipeline allows


class RealPositions(nn.Module):
    """The angles of one size of pictures, kept on the device and not made in each call.

    Raises: ValueError if it is asked for another size, or for a longer text.
    """

    def __init__(self, positions: nn.Module, img_shapes: list[list[tuple[int, int, int]]]) -> None:
        """Compute the angles by diffusers' complex `positions`."""
        super().__init__()
        self._shapes = img_shapes[0]
        cpu = torch.device("cpu")
        image, text = positions(img_shapes, max_txt_seq_len=_MAX_TEXT, device=cpu)
        for name, turns in (("image", image), ("text", text)):
            self.register_buffer(f"{name}_cos", turns.real.unsqueeze(1).clone(), persistent=False)
            self.register_buffer(f"{name}_sin", turns.imag.unsqueeze(1).clone(), persistent=False)

    image_cos: Tensor
    image_sin: Tensor
    text_cos: Tensor
    text_sin: Tensor

    def forward(
        self, img_shapes: list[list[tuple[int, int, int]]], *, max_txt_seq_len: int, device: object
    ) -> tuple[Angles, Angles]:
        del device
        if img_shapes[0] != self._shapes or max_txt_seq_len > _MAX_TEXT:
            raise ValueError(
                f"compiled for pictures of {self._shapes} and texts of up to {_MAX_TEXT} tokens; "
                f"got {img_shapes[0]} and {max_txt_seq_len}: load the model without compiling"
            )
        text = slice(max_txt_seq_len)
        return (self.image_cos, self.image_sin), (self.text_cos[text], self.text_sin[text])


class RealRotary(QwenDoubleStreamAttnProcessor2_0):
    """diffusers' attention of both streams, with queries and keys turned in real numbers."""

    def __call__(  # type: ignore[override]  # diffusers' block gives all of them, by these names
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        encoder_hidden_states_mask: Tensor | None,
        attention_mask: Tensor | None,
        image_rotary_emb: tuple[Angles, Angles],
    ) -> Any:
        given: tuple[Any, ...] = (
            hidden_states,
            encoder_hidden_states,
            encoder_hidden_states_mask,
            attention_mask,
        )
        turning: Any = _Turning(attn, *image_rotary_emb)
        return super().__call__(turning, *given)


class _Turning:
    """An attention layer whose normalised queries and keys are turned."""

    def __init__(self, attn: Any, image: Angles, text: Angles) -> None:
        self._attn, self._image, self._text = attn, image, text

    def __getattr__(self, name: str) -> Any:
        return getattr(self._attn, name)

    def norm_q(self, x_BSHD: Tensor) -> Tensor:
        return turned(self._attn.norm_q(x_BSHD), self._image)

    def norm_k(self, x_BSHD: Tensor) -> Tensor:
        return turned(self._attn.norm_k(x_BSHD), self._image)

    def norm_added_q(self, x_BSHD: Tensor) -> Tensor:
        return turned(self._attn.norm_added_q(x_BSHD), self._text)

    def norm_added_k(self, x_BSHD: Tensor) -> Tensor:
        return turned(self._attn.norm_added_k(x_BSHD), self._text)


def turned(x_BSHD: Tensor, angles: Angles) -> Tensor:
    """Turn each pair of neighbouring features by its position's angle; computed in float32."""
    cos, sin = angles
    first, second = x_BSHD.float().reshape(*x_BSHD.shape[:-1], -1, 2).unbind(-1)
    pairs = torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1)
    return pairs.flatten(-2).type_as(x_BSHD)


def use_real_rotary(generator: Any, img_shapes: list[list[tuple[int, int, int]]]) -> None:
    """Let a transformer of Qwen-Image turn queries and keys in real numbers, for one size."""
    generator.pos_embed = RealPositions(generator.pos_embed, img_shapes)
    for block in generator.transformer_blocks:
        block.attn.set_processor(RealRotary())  # type: ignore[no-untyped-call]
