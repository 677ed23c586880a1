"""Networks as they are prepared for inference: the same function, with less to compute."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from components.backbones.backbone import Backbone
from components.backbones.catalogue import FAMILIES, BackboneName
from components.restorers.folder import load_restorer
from components.restorers.hdrface import HDRFace
from tests.small_networks import trained

RANK = 2


def opened(folder: Path) -> HDRFace:
    restorer = load_restorer(folder)
    assert isinstance(restorer, HDRFace)
    return restorer


@torch.no_grad()
def stepped(backbone: Backbone) -> Tensor:
    draw = torch.Generator().manual_seed(3)
    latent, noise = torch.randn(2, 2, 4, 16, 16, generator=draw)
    condition = torch.randn(2, 5, backbone.condition_width, generator=draw)
    return backbone.step(latent, condition, backbone.inference_noise(noise, 1.0))


@pytest.mark.parametrize("name", ["sd21", "qwen"])
def test_merged_layers_are_the_same_function_and_no_layers_of_peft_are_left(
    tmp_path: Path, networks: Path, name: BackboneName
) -> None:
    folder = trained(tmp_path, networks, name, "text", rank=RANK)
    plain, layered = (FAMILIES[name](networks / name).float() for _ in range(2))
    layered.load_lora(folder)
    restorer = opened(folder)
    expected = stepped(layered)
    torch.testing.assert_close(stepped(restorer.backbone), expected, atol=1e-5, rtol=0)
    assert float((expected - stepped(plain)).abs().max()) > 0.01  # the layers do something
    modules = list(restorer.modules())
    assert not [one for one in modules if type(one).__module__.partition(".")[0] == "peft"]
    assert not [key for key, _ in restorer.named_parameters() if "lora" in key]
