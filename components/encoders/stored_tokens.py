"""The two forms that a features table has of tokens: float16, or 8-bit numbers in blocks.

A token's channels are cut into blocks of 32. A block has one float16 scale s, and its number x is
stored as q = round(x / s), which lies in [-127, 127]; q s is read back. s is the block's largest
|x| / 127, rounded up to a float16, so the error is at most s / 2. DINOv3 has a few channels far
larger than all others: one of them coarsens its own block only.

B batch, N tokens, C token width, K = C / 32 blocks of a token, G = 32 channels of a block.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

StoredTokens = Literal["float16", "int8"]

BLOCK = 32  # channels; decision 33 has the errors of 64 and 128
SCALES = {"lq_tokens": "lq_scales", "sr_tokens": "sr_scales"}  # columns of int8 tokens
_LARGEST = 127
_SMALLEST_SCALE = 2.0**-24  # the step of float16's smallest numbers: they come back exactly


class Blocks(NamedTuple):
    """Tokens in 8 bits: int8 numbers, and a float16 scale for each block of channels."""

    numbers_BNKG: Tensor
    scales_BNK: Tensor


def in_blocks(tokens_BNC: Tensor, names: Sequence[str]) -> Blocks:
    """Round tokens to 8 bits, after rounding to float16, as inference does.

    `names` of the B rows are for an error.

    Raises: ValueError if the width is no multiple of 32, or naming the rows with numbers that are
        not finite in float16.
    """
    width = tokens_BNC.shape[-1]
    if width % BLOCK:
        raise ValueError(
            f"tokens of {width} channels do not divide into blocks of {BLOCK}: set tokens: float16"
        )
    tokens_BNC = tokens_BNC.half().float()
    is_finite_B = tokens_BNC.isfinite().flatten(1).all(dim=1).tolist()
    if wrong := [name for name, finite in zip(names, is_finite_B, strict=True) if not finite]:
        raise ValueError(
            f"{', '.join(wrong)}: numbers that are not finite, or larger than 65504, cannot be "
            "stored: check the pictures, and the weights that made the tokens"
        )
    blocks_BNKG = tokens_BNC.reshape(*tokens_BNC.shape[:-1], width // BLOCK, BLOCK)
    scales_BNK = _scales(blocks_BNKG.abs().amax(dim=-1))
    numbers_BNKG = (blocks_BNKG / scales_BNK.float().unsqueeze(-1)).round()
    return Blocks(numbers_BNKG.to(torch.int8), scales_BNK)


def _scales(largest_BNK: Tensor) -> Tensor:
    """Return largest / 127 as float16, rounded up: rounded down, numbers could exceed 127 s."""
    nearest_BNK = (largest_BNK / _LARGEST).half().clamp(min=_SMALLEST_SCALE)
    is_low_BNK = nearest_BNK.float() * _LARGEST < largest_BNK
    # The next larger float16 has the next larger bits; `torch.nextafter` has no float16.
    return (nearest_BNK.view(torch.int16) + is_low_BNK.to(torch.int16)).view(torch.float16)


def from_blocks(blocks: Blocks) -> Tensor:
    """Return tokens_BNC in float32, on the device of the blocks; q s is exact in float32."""
    return (blocks.numbers_BNKG.float() * blocks.scales_BNK.float().unsqueeze(-1)).flatten(-2)


def stored_bytes(num_tokens: int, width: int, form: StoredTokens) -> int:
    """Return the bytes of one picture's tokens in a table, before its compression."""
    if form == "float16":
        return 2 * num_tokens * width
    return num_tokens * (width + 2 * (width // BLOCK))
