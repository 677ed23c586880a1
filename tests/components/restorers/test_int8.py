"""Restoring with 8-bit matrices, and the check that allows it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from components import images
from components.backbones.catalogue import BackboneName
from components.restorers import int8_check
from components.restorers.catalogue import adopt
from components.restorers.folder import load_restorer, load_unchecked, save_restorer
from components.restorers.hdrface import HDRFace
from components.restorers.int8_check import MIN_FACES, Int8Check
from components.restorers.pipeline import HDRFacePipeline
from components.weights.manifest import INT8_CHECK, seal
from components.weights.precision import InferencePrecision, computing
from components.weights.store import bring, open_model
from tests.components.restorers.test_engine import faces, stepped
from tests.components.weights.test_int8 import quantized
from tests.onnx_networks import onnx_network
from tests.small_networks import SIZE, trained

NUM_FACES = 8


def opened(folder: Path, precision: InferencePrecision) -> HDRFace:
    restorer = load_unchecked(folder, precision=precision)
    assert isinstance(restorer, HDRFace)
    return restorer


def restored(restorer: Any) -> Tensor:
    names = [str(number) for number in range(NUM_FACES)]
    done: Tensor = restorer.restore(faces(NUM_FACES), names, [0] * NUM_FACES).restored_B3HW
    return done


def psnr(one: Tensor, other: Tensor) -> float:
    return float(-10 * ((one - other) ** 2).mean().log10())


def bytes_of(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in module.state_dict().values())


def passed(folder: Path, **changes: Any) -> Int8Check:
    """Note that a folder was checked."""
    values = {
        "fingerprint": open_model(folder).fingerprint,
        **{"faces": MIN_FACES, "mean_psnr": 41.0, "worst_psnr": 35.0, "versions": {}},
    }
    check = Int8Check.model_validate(values | changes)
    check.write(folder)
    return check


@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize("name", ["sd21", "qwen"])
def test_pictures_are_near_those_in_bf16_with_half_of_the_memory_for_linear_layers(
    tmp_path: Path, networks: Path, name: BackboneName, rank: int | None
) -> None:
    folder = trained(tmp_path, networks, name, "sdfm", rank=rank)
    bf16, int8 = opened(folder, "bf16"), opened(folder, "int8")
    one, other = restored(bf16), restored(int8)
    assert 45 < psnr(one, other) < 70  # it differs, and not by much
    assert float((one - other).abs().max()) < 8.5 / 255
    assert isinstance(int8.intermediate, HDRFace)
    assert (int8.precision, int8.intermediate.precision) == ("int8", "int8")
    pairs = [(bf16.backbone, int8.backbone)]
    pairs += [(bf16.intermediate.backbone, int8.intermediate.backbone)]  # type: ignore[union-attr]
    for before, after in pairs:
        sizes = [
            sum(
                bytes_of(one) - one.bias.nbytes if one.bias is not None else bytes_of(one)
                for one in backbone.generator.modules()
                if isinstance(one, nn.Linear)
            )
            for backbone in (before, after)
        ]
        assert 0.5 < sizes[1] / sizes[0] < 0.75  # scales count: these matrices are narrow
        dtypes = {
            tensor.dtype
            for module in after.modules()
            if isinstance(module, nn.Conv2d | nn.Conv3d) and module.in_channels != 3
            for tensor in [module.weight]
        }
        assert dtypes == {torch.bfloat16}
        assert not [name for name, tensor in after.vae.named_parameters() if is_8_bits(tensor)]
    assert int8.encoder is not None
    assert not [name for name, tensor in int8.encoder.named_parameters() if is_8_bits(tensor)]


def is_8_bits(tensor: Tensor) -> bool:
    return tensor.dtype == torch.int8


@pytest.mark.parametrize("name", ["sd21", "qwen"])
def test_matrices_are_rounded_once_from_the_sum_with_their_low_rank_layers(
    tmp_path: Path, networks: Path, name: BackboneName
) -> None:
    folder = trained(tmp_path, networks, name, "text", rank=2)
    exact = dict(opened(folder, "float32").backbone.generator.named_parameters())
    kept = opened(folder, "int8").backbone.generator.state_dict()
    num_matrices = 0
    for key, steps in kept.items():
        layer, ending, number = key.partition(".parametrizations.weight.original")
        if ending and number == "0":
            expected, _ = quantized(exact[f"{layer}.weight"].detach().numpy())
            np.testing.assert_array_equal(steps.numpy(), expected)
            num_matrices += 1
    assert num_matrices > 10


@pytest.mark.parametrize("name", ["sd21", "qwen"])
def test_a_step_in_int8_compiles_as_a_whole(
    tmp_path: Path, networks: Path, name: BackboneName
) -> None:
    whole: Any = opened(trained(tmp_path, networks, name, "text", rank=2), "int8").backbone
    with computing("int8", torch.device("cpu")):
        expected = stepped(whole)
        whole.allow_compiling(SIZE)
        whole.step = torch.compile(whole.step, backend="eager", fullgraph=True)
        torch.testing.assert_close(stepped(whole), expected, atol=1e-6, rtol=0)


def test_a_restorer_for_compiled_batches_restores_the_same_faces_in_int8(
    tmp_path: Path, networks: Path
) -> None:
    folder = trained(tmp_path, networks, "sd21", "sdfm")
    passed(folder)
    expected = restored(load_restorer(folder, precision="int8"))
    compiled = load_restorer(folder, precision="int8", compile_for=[NUM_FACES])
    with torch.compiler.set_stance("force_eager"):
        assert float((restored(compiled) - expected).abs().max()) < 6.5 / 255


def test_a_checked_folder_and_its_first_restorer_are_loaded_everywhere(
    tmp_path: Path, networks: Path
) -> None:
    folder = trained(tmp_path, networks, "sd21", "sdfm")
    fingerprint = open_model(folder).fingerprint
    passed(folder)
    assert seal(folder) == fingerprint  # the note is no part of it
    restorer = load_restorer(folder, precision="int8")
    assert isinstance(restorer, HDRFace)
    assert restorer.intermediate is not None
    assert restorer.intermediate.precision == "int8"
    expected = restored(restorer)
    stored = bring(folder, tmp_path / "store")
    assert torch.equal(restored(load_restorer(stored, precision="int8")), expected)

    pipe = HDRFacePipeline.from_pretrained(folder, torch_dtype=torch.int8)
    pipe.save_pretrained(tmp_path / "saved")
    again = HDRFacePipeline.from_pretrained(tmp_path / "saved", torch_dtype=torch.int8).to("cpu")
    picture = images.from_tensor(faces(1))[0]
    shown = [one(images_of(picture)).images[0] for one in (pipe, again)]
    assert np.array_equal(*map(np.asarray, shown))
    with pytest.raises(ValueError, match="compute in int8"):
        again.to(torch.bfloat16)


def images_of(picture: Any) -> Any:
    from PIL import Image

    return Image.fromarray(picture)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"mean_psnr": 39.9}, r"the mean PSNR is 39.9 dB, below 40\): use precision bf16, or run"),
        ({"worst_psnr": 29.0}, "the worst face's PSNR is 29.0 dB, below 30"),
        ({"faces": MIN_FACES - 1}, "15 faces were compared, at least 16 are needed"),
        ({"mean_psnr": float("nan"), "worst_psnr": 35.0}, "the mean PSNR is nan"),
        ({"fingerprint": "0" * 64}, "is of the weights 0000.* these are"),
    ],
)
def test_a_folder_whose_check_is_no_permission_is_refused(
    tmp_path: Path,
    networks: Path,
    changes: dict[str, Any],
    reason: str,
) -> None:
    folder = trained(tmp_path, networks, "sd21", "text")
    check = passed(folder)
    file = folder / INT8_CHECK
    file.write_text(json.dumps({**check.model_dump(), **changes}))
    with pytest.raises(ValueError, match=reason) as refused:
        load_restorer(folder, precision="int8")
    assert f"run 'hdrface check --model {folder} --hq DIR'" in str(refused.value)
    assert load_restorer(folder, precision="bf16").precision == "bf16"


def test_a_folder_that_was_not_checked_is_refused_and_so_is_a_broken_check(
    tmp_path: Path, networks: Path
) -> None:
    folder = trained(tmp_path, networks, "sd21", "text")
    with pytest.raises(ValueError, match=r"was not checked in int8: run 'hdrface check"):
        HDRFacePipeline.from_pretrained(folder, torch_dtype=torch.int8)
    for content in ("{", json.dumps({**passed(folder).model_dump(), "format": 2})):
        (folder / INT8_CHECK).write_text(content)
        with pytest.raises(ValueError, match=r"cannot be used .* run 'hdrface check"):
            int8_check.require_check(folder)
    with pytest.raises(FileNotFoundError, match=r"holds no restorer\.json"):
        int8_check.require_check(tmp_path)


def test_another_projects_restorer_needs_no_check_and_computes_in_float32(tmp_path: Path) -> None:
    adopt(f"onnx:{onnx_network(tmp_path / 'half.onnx')}", tmp_path / "half")
    assert load_restorer(tmp_path / "half", precision="int8").precision == "float32"


def test_a_restorer_in_int8_is_not_saved_as_what_was_trained(
    tmp_path: Path, networks: Path
) -> None:
    restorer = opened(trained(tmp_path, networks, "sd21", "text"), "int8")
    with pytest.raises(ValueError, match="save it from precision float32"):
        save_restorer(restorer, tmp_path / "again", needs={}, licences=[], lineage={})
    assert not (tmp_path / "again").exists()


def test_a_picture_that_is_not_finite_in_int8_is_refused(tmp_path: Path, networks: Path) -> None:
    restorer = opened(trained(tmp_path, networks, "sd21", "text"), "int8")
    restorer.backbone.vae.decoder.conv_in.weight.fill_(3e38)
    with pytest.raises(ArithmeticError, match="in int8: restore with precision float32"):
        restored(restorer)
