"""Blocks of an autoencoder that write over tensors that nobody else needs."""

import pytest
import torch
from diffusers.models.resnet import ResnetBlock2D

from components.backbones.large_tensors import write_over


@pytest.mark.parametrize("outputs", [8, 16])
@torch.no_grad()
def test_a_residual_block_gives_the_same_and_leaves_its_input_as_it_was(outputs: int) -> None:
    torch.manual_seed(outputs)
    block = ResnetBlock2D(in_channels=8, out_channels=outputs, temb_channels=None, groups=4).eval()
    x = torch.randn(2, 8, 12, 10)
    before, expected = x.clone(), block(x, temb=None)
    write_over(block)
    assert block.forward.__module__ == write_over.__module__
    torch.testing.assert_close(block(x, temb=None), expected, atol=1e-6, rtol=0)
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    "other", [{"temb_channels": 6}, {"output_scale_factor": 2.0}, {"down": True}]
)
def test_blocks_that_compute_something_else_stay_as_they_are(other: dict[str, float]) -> None:
    block = ResnetBlock2D(**{"in_channels": 8, "temb_channels": None, "groups": 4, **other})
    write_over(block)
    assert block.forward.__module__ == "diffusers.models.resnet"
