"""Other projects' checkpoints in their real layouts, with random weights, at their real size."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from components.restorers.by_onnx import OnnxRestorer
from components.restorers.by_spandrel import SpandrelRestorer
from components.restorers.catalogue import is_of_others, open_of_others
from tests.onnx_networks import onnx_network

CPU = torch.device("cpu")


def faces(count: int, size: int = 512) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def assert_pictures_of(found: Tensor, signed: Tensor) -> None:
    """Check that a result is a network's output in [-1, 1], rounded to 8 bits."""
    levels = 255 * ((signed + 1) / 2).clamp(0, 1)
    assert torch.equal(found, torch.round(255 * found) / 255)
    torch.testing.assert_close(255 * found, levels, atol=0.51, rtol=0)


def gfpgan() -> Any:
    from spandrel.architectures.GFPGAN import GFPGAN

    torch.manual_seed(0)
    options = {"num_style_feat": 512, "channel_multiplier": 2, "num_mlp": 8, "narrow": 1}
    flags = {"input_is_latent": True, "different_w": True, "sft_half": True, "fix_decoder": False}
    return GFPGAN(out_size=512, decoder_load_path=None, **options, **flags)


def restore_former() -> Any:
    from spandrel.architectures.RestoreFormer import RestoreFormer

    torch.manual_seed(0)
    return RestoreFormer(ch=32, n_embed=64, embed_dim=32, z_channels=32)


@pytest.fixture(scope="module")
def gfpgan_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a checkpoint as GFPGAN's authors do: tensors below `params_ema`, by torch.save."""
    file = tmp_path_factory.mktemp("published") / "GFPGANv1.4.pth"
    torch.save({"params_ema": gfpgan().state_dict()}, file)
    return file


@pytest.mark.cluster
@torch.no_grad()
def test_gfpgan_sees_signed_pictures_and_gives_a_face_the_same_result_in_any_batch(
    gfpgan_file: Path,
) -> None:
    restorer = SpandrelRestorer(gfpgan_file, device=CPU)
    assert (restorer.name, restorer.size, restorer.fidelity) == ("GFPGAN", 512, None)
    lq = faces(2)
    both = restorer.restore(lq, ["a", "b"], [0, 0]).restored_B3HW
    again = restorer.restore(lq[1:], ["b"], [0]).restored_B3HW
    assert torch.equal(again, both[1:])
    network = gfpgan().eval()
    # Its noise is weighted by zeros in new weights: nothing is drawn that shows.
    assert_pictures_of(both[:1], network(2 * lq[:1] - 1, randomize_noise=False)[0])


@torch.no_grad()
def test_restore_former_is_read_from_safetensors(tmp_path: Path) -> None:
    network = restore_former().eval()
    file = tmp_path / "RestoreFormer++.safetensors"
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, file)
    restorer = SpandrelRestorer(file, device=CPU)
    lq = faces(1)
    found = restorer.restore(lq, ["a"], [0]).restored_B3HW
    assert_pictures_of(found, network(2 * lq - 1)[0])


@pytest.mark.cluster
@torch.no_grad()
def test_codeformer_has_its_own_fidelity(tmp_path: Path) -> None:
    from spandrel_extra_arches.architectures.CodeFormer import CodeFormer

    torch.manual_seed(0)
    network = CodeFormer(dim_embd=64, n_layers=1, codebook_size=32).eval()
    file = tmp_path / "codeformer.pth"
    torch.save({"params_ema": network.state_dict()}, file)
    restorer = SpandrelRestorer(file, device=CPU)
    assert (restorer.name, restorer.fidelity) == ("CodeFormer", 0.5)
    assert "non-commercial" in restorer.licence
    lq = faces(1)
    found = restorer.restore(lq, ["a"], [0], fidelity=1.0).restored_B3HW
    assert_pictures_of(found, network(2 * lq - 1, weight=1.0)[0])


def test_other_files_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth is missing: name a checkpoint"):
        SpandrelRestorer(tmp_path / "nowhere.pth", device=CPU)
    file = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(3)}, file)
    with pytest.raises(ValueError, match="holds no network that spandrel knows"):
        SpandrelRestorer(file, device=CPU)


def test_an_onnx_file_restores_signed_pictures_of_its_own_size(tmp_path: Path) -> None:
    restorer = OnnxRestorer(onnx_network(tmp_path / "half.onnx"), device=CPU)
    assert (restorer.size, restorer.fidelity) == (32, None)
    lq = faces(2, 32)
    found = restorer.restore(lq, ["a", "b"], [0, 0]).restored_B3HW
    assert_pictures_of(found, (2 * lq - 1) / 2)


def test_the_second_input_of_an_onnx_file_is_its_fidelity(tmp_path: Path) -> None:
    restorer = OnnxRestorer(onnx_network(tmp_path / "number.onnx", number=True), device=CPU)
    assert restorer.fidelity == 0.5
    lq = faces(1, 32)
    for asked, scale in ((None, 0.5), (1.0, 1.0), (0.25, 0.25)):
        found = restorer.restore(lq, ["a"], [0], fidelity=asked).restored_B3HW
        assert_pictures_of(found, (2 * lq - 1) * scale)


def test_an_onnx_file_without_a_fixed_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"takes no square RGB picture of a fixed size"):
        OnnxRestorer(onnx_network(tmp_path / "any.onnx", side="side"), device=CPU)


def test_names_lead_to_a_kind(tmp_path: Path) -> None:
    assert is_of_others("spandrel:codeformer.pth")
    assert not is_of_others("models:/hdrface@champion")
    assert not is_of_others("models/sd21-sdfm")
    found = open_of_others(f"onnx:{onnx_network(tmp_path / 'half.onnx')}", device=CPU)
    assert isinstance(found, OnnxRestorer)
