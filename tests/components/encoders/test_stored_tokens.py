"""Tokens in 8 bits, against the same arithmetic written out in NumPy, one block after another."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor

from components.encoders.stored_tokens import Blocks, from_blocks, in_blocks, stored_bytes

# Any finite float16, subnormal numbers and both zeros among them.
FLOAT16 = st.floats(-65504, 65504, width=16)
TOKENS = arrays.arrays(
    np.float16, st.tuples(st.just(2), st.integers(1, 3), st.just(64)), elements=FLOAT16
)


def names(tokens_BNC: Tensor) -> list[str]:
    return [f"lq_tokens of face {row}" for row in range(len(tokens_BNC))]


def round_trip(tokens_BNC: Tensor) -> Tensor:
    return from_blocks(in_blocks(tokens_BNC, names(tokens_BNC)))


def written_out(tokens_BNC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what is read back, and the scale of each number, in float64, block by block."""
    read, scales = np.zeros(tokens_BNC.shape), np.zeros(tokens_BNC.shape)
    for row, token in np.ndindex(tokens_BNC.shape[:2]):
        for start in range(0, tokens_BNC.shape[2], 32):
            place = (row, token, slice(start, start + 32))
            block = tokens_BNC[place].astype(np.float64)
            scale = np.float16(np.abs(block).max() / 127)
            while float(scale) * 127 < np.abs(block).max() or scale == 0:
                scale = np.nextafter(scale, np.float16(np.inf))
            read[place] = np.rint(block / float(scale)) * float(scale)
            scales[place] = float(scale)
    return read, scales


@settings(deadline=None)
@given(TOKENS)
def test_tokens_come_back_as_written_out_within_half_a_scale(tokens_BNC: np.ndarray) -> None:
    found = round_trip(torch.from_numpy(tokens_BNC)).numpy()
    expected, scales = written_out(tokens_BNC)
    assert found.dtype == np.float32
    assert (np.abs(found - tokens_BNC.astype(np.float64)) <= scales / 2).all()
    np.testing.assert_array_equal(found, expected)


def test_scales_are_float16_and_numbers_use_all_of_8_bits() -> None:
    tokens_BNC = torch.linspace(-3, 3, 64).view(1, 1, 64)
    blocks = in_blocks(tokens_BNC, names(tokens_BNC))
    assert (blocks.numbers_BNKG.dtype, blocks.scales_BNK.dtype) == (torch.int8, torch.float16)
    assert (int(blocks.numbers_BNKG.min()), int(blocks.numbers_BNKG.max())) == (-127, 127)


def test_zeros_and_the_smallest_numbers_come_back_exactly() -> None:
    smallest = 2.0**-24  # of float16
    for tokens_BNC in (torch.zeros(1, 2, 32), smallest * torch.arange(-64.0, 64.0).view(1, 2, 64)):
        assert torch.equal(round_trip(tokens_BNC), tokens_BNC)


def test_the_largest_numbers_of_float16_come_back() -> None:
    tokens_BNC = torch.tensor([65504.0, -65504.0]).repeat(16).view(1, 1, 32)
    torch.testing.assert_close(round_trip(tokens_BNC), tokens_BNC, rtol=0.5 / 127, atol=0)


def test_an_outlier_coarsens_only_its_own_block() -> None:
    tokens_BNC = torch.randn(1, 5, 64, generator=torch.Generator().manual_seed(1))
    with_outlier = tokens_BNC.clone()
    with_outlier[..., 3] = 100
    assert torch.equal(round_trip(with_outlier)[..., 32:], round_trip(tokens_BNC)[..., 32:])


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -70_000.0])
def test_what_float16_cannot_hold_is_refused_with_the_rows_name(wrong: float) -> None:
    tokens_BNC = torch.zeros(3, 2, 32)
    tokens_BNC[1, 1, 7] = wrong
    with pytest.raises(ValueError, match=r"^lq_tokens of face 1: numbers that are not finite"):
        in_blocks(tokens_BNC, names(tokens_BNC))


def test_a_width_without_whole_blocks_is_refused_with_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"48 channels .* blocks of 32: set tokens: float16"):
        in_blocks(torch.zeros(1, 2, 48), ["a"])


def test_the_bytes_are_those_that_the_arrays_have() -> None:
    tokens_BNC = torch.zeros(1, 201, 1024)
    blocks: Blocks = in_blocks(tokens_BNC, ["a"])
    assert stored_bytes(201, 1024, "int8") == sum(part.nbytes for part in blocks) == 218_688
    assert stored_bytes(201, 1024, "float16") == tokens_BNC.half().nbytes == 411_648
