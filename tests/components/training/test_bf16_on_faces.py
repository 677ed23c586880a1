"""bfloat16 on real faces: a frozen autoencoder restores them as it does in float32.

A CPU without bfloat16 instructions takes minutes for such convolutions. Here they are computed as a
GPU does: products of rounded numbers, summed in float32, the sum rounded. What our precision rounds
is unchanged.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.vae import DecoderTiny, EncoderTiny
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from components.weights.precision import Precision, computing, settle

CPU = torch.device("cpu")
COUNT, CROP = 4, 128
MOST_DB = 0.1  # what bfloat16 may cost a face


class AsAGpuDoes(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        options = kwargs or {}
        is_small = torch.is_autocast_enabled("cpu") or args[0].dtype == torch.bfloat16
        if func is not F.conv2d or not is_small:
            return func(*args, **options)
        rounded = [one.bfloat16().float() if isinstance(one, Tensor) else one for one in args]
        with torch.autocast("cpu", enabled=False):
            return func(*rounded, **options).bfloat16()


@pytest.fixture(scope="module")
def faces(shared_dir: Path) -> Tensor:
    files = sorted((shared_dir / "faces" / "hq").glob("ffhq_*"))[:COUNT]
    start = (512 - CROP) // 2
    box = slice(start, start + CROP)
    pictures = [np.array(Image.open(file).convert("RGB"))[box, box] for file in files]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255


def autoencoder(name: str, folder: Path) -> tuple[nn.Module, nn.Module]:
    """Load one of the TAESD family in float32; its decoder's first layer has no weights."""
    encoding = load_file(folder / f"{name}_encoder.safetensors")
    decoding = load_file(folder / f"{name}_decoder.safetensors")
    channels = decoding["1.weight"].shape[1]
    encoder = EncoderTiny(3, channels, (1, 3, 3, 3), (64,) * 4, "relu")
    decoder = DecoderTiny(channels, 3, (3, 3, 3, 1), (64,) * 4, 2, "relu", "nearest")
    encoder.layers.load_state_dict(encoding)
    moved = {}
    for key, value in decoding.items():
        layer, _, rest = key.partition(".")
        moved[f"{int(layer) - 1}.{rest}"] = value
    decoder.layers.load_state_dict(moved)
    for half in (encoder, decoder):
        half.float().requires_grad_(requires_grad=False)
    return encoder, decoder


@torch.no_grad()
def computed(half: nn.Module, tensor: Tensor, precision: Precision) -> Tensor:
    settle(half.modules(), precision, CPU)
    with computing(precision, CPU), AsAGpuDoes():
        result: Tensor = half(tensor)
    return result.float()


def psnr(signed_B3HW: Tensor, face_B3HW: Tensor) -> Tensor:
    restored_B3HW = ((signed_B3HW + 1) / 2).clamp(0, 1)
    return -10 * (restored_B3HW - face_B3HW).square().mean(dim=(1, 2, 3)).log10()


def test_what_stands_in_for_bf16_convolutions_differs_in_the_last_bit_at_most() -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(1, 8, 6, 6, generator=draw).bfloat16()
    weight = torch.randn(8, 8, 3, 3, generator=draw).bfloat16()
    bias = torch.randn(8, generator=draw).bfloat16()
    real = F.conv2d(x, weight, bias, padding=1)
    with AsAGpuDoes():
        ours = F.conv2d(x, weight, bias, padding=1)
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours, real, rtol=2**-7, atol=2**-6)


@pytest.mark.shared
@pytest.mark.parametrize("name", ["taesd", "taesd3"])
def test_both_halves_of_an_autoencoder_lose_less_than_a_tenth_of_a_decibel(
    name: str, faces: Tensor, shared_dir: Path
) -> None:
    encoder, decoder = autoencoder(name, shared_dir / "weights")
    signed = 2 * faces - 1
    latent = computed(encoder, signed, "float32")
    exact = computed(decoder, latent, "float32")
    assert psnr(exact, faces).mean() > 28  # else there would be nothing to lose
    by_encoder = computed(decoder, computed(encoder, signed, "bf16"), "float32")
    by_decoder = computed(decoder, latent, "bf16")
    for rounded in (by_encoder, by_decoder):
        assert not torch.equal(rounded, exact)
        assert (psnr(rounded, faces) - psnr(exact, faces)).abs().max() < MOST_DB
        assert abs((rounded - exact).mean() * 127.5) < 0.05  # levels of 255: no brighter or darker
