"""The encoder's tokens: which, in which order, from which pixels."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from components.encoders.dinov3 import DINOv3


def test_all_tokens_are_kept_class_and_registers_first(networks: Path) -> None:
    encoder = DINOv3(networks / "dinov3", input_size=64)
    tokens = encoder(torch.rand(2, 3, 32, 32))
    assert tokens.shape == (2, 1 + 4 + 16, 32)
    patches = encoder.patch_map(torch.arange(21.0).expand(2, -1))
    assert patches.shape == (2, 4, 4)
    assert patches[0, 0].tolist() == [5, 6, 7, 8]


def test_pixels_are_resized_antialiased_and_normalised_like_imagenet(networks: Path) -> None:
    encoder = DINOv3(networks / "dinov3", input_size=32)
    seen: list[torch.Tensor] = []
    encoder.network.register_forward_pre_hook(
        lambda _module, _args, kwargs: seen.append(kwargs["pixel_values"]), with_kwargs=True
    )
    checkerboard = torch.from_numpy(np.indices((64, 64)).sum(0) % 2).float().expand(1, 3, -1, -1)
    encoder(checkerboard)
    expected = (0.5 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    inner = seen[0][0, :, 4:-4, 4:-4].mean(dim=(1, 2)).numpy()  # shrunk without aliasing: grey
    np.testing.assert_allclose(inner, expected, atol=0.02)


def test_an_input_size_that_is_not_a_multiple_of_the_patch_is_refused(networks: Path) -> None:
    with pytest.raises(ValueError, match="40 is not a multiple of its patch 16"):
        DINOv3(networks / "dinov3", input_size=40)


def test_weights_that_do_not_fit_are_refused(networks: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(networks / "dinov3", tmp_path / "dinov3")
    tensors = load_file(folder / "model.safetensors")
    save_file({name: t.bfloat16() for name, t in tensors.items()}, folder / "model.safetensors")
    parameters = DINOv3(folder, input_size=32).network.parameters()
    assert {parameter.dtype for parameter in parameters} == {torch.float32}
    lost = next(name for name in sorted(tensors) if name.endswith("norm.weight"))
    del tensors[lost]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"1 tensors are missing .* e\.g\. .*{lost[-11:]}"):
        DINOv3(folder, input_size=32)
