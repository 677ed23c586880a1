"""Blocks of an autoencoder that write over tensors that nobody else needs."""

import pytest
import torch
from diffusers.models.autoencoders.vae import Decoder
from diffusers.models.resnet import ResnetBlock2D
from torch import nn

from components.backbones import large_tensors
from components.backbones.large_tensors import write_over


@pytest.mark.parametrize("is_last", [False, True])
@pytest.mark.parametrize("outputs", [8, 16])
@torch.no_grad()
def test_a_residual_block_gives_the_same_and_leaves_its_input_as_it_was(
    outputs: int, is_last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(large_tensors, "_AT_ONCE", 7 * 2 * 8)  # 7 pixels of both pictures
    torch.manual_seed(outputs)
    block = ResnetBlock2D(in_channels=8, out_channels=outputs, temb_channels=None, groups=4).eval()
    for norm in (block.norm1, block.norm2):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    x = torch.randn(2, 8, 12, 10) + 3 * torch.randn(2, 8, 1, 1)
    if is_last:
        x = x.contiguous(memory_format=torch.channels_last)
        block.to(memory_format=torch.channels_last)
    before, expected = x.clone(), block(x, temb=None)
    write_over(block)
    assert block.forward.__module__ == write_over.__module__
    torch.testing.assert_close(block(x, temb=None), expected, atol=5e-6, rtol=0)
    assert torch.equal(x, before)


@torch.no_grad()
def test_the_end_of_a_decoder_gives_the_same() -> None:
    torch.manual_seed(0)
    decoder = Decoder(4, 3, ("UpDecoderBlock2D",), (16,), 1, 4, mid_block_add_attention=False)
    decoder.to(memory_format=torch.channels_last)
    nn.init.normal_(decoder.conv_norm_out.weight)
    nn.init.normal_(decoder.conv_norm_out.bias)
    x = torch.randn(2, 4, 12, 10)
    expected = decoder(x)
    write_over(decoder)
    assert isinstance(decoder.conv_act, nn.Identity)  # the normalisation has it
    torch.testing.assert_close(decoder(x), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "other", [{"temb_channels": 6}, {"output_scale_factor": 2.0}, {"down": True}]
)
def test_blocks_that_compute_something_else_stay_as_they_are(other: dict[str, float]) -> None:
    block = ResnetBlock2D(**{"in_channels": 8, "temb_channels": None, "groups": 4, **other})
    write_over(block)
    assert block.forward.__module__ == "diffusers.models.resnet"
