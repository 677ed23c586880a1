"""`hdrface check` over small networks of the real classes."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result
from safetensors.torch import load_file, save_file
from skimage.data import astronaut
from skimage.metrics import peak_signal_noise_ratio
from typer.testing import CliRunner

from components import images
from components.backbones.catalogue import BackboneName
from components.degradation import recipe
from components.restorers.folder import load_restorer, load_unchecked
from components.restorers.int8_check import MIN_FACES
from components.weights.manifest import INT8_CHECK, seal
from components.weights.precision import InferencePrecision
from components.weights.store import open_model
from pipelines import cli
from tests.onnx_networks import onnx_network
from tests.small_networks import SIZE, trained
from tests.small_tables import RECIPE

LINEAGE = {"params": {"degrade": {"recipe": RECIPE.model_dump(mode="json"), "seed": 42}}}


def write_faces(folder: Path, count: int = MIN_FACES) -> Path:
    folder.mkdir()
    for number in range(count):
        face = images.resize(astronaut()[8 * number : 8 * number + 200, 130:330].copy(), SIZE)
        (folder / f"{number}.png").write_bytes(images.encode_png(face))
    return folder


def checked(model: Path | str, hq: Path) -> Result:
    return CliRunner().invoke(cli.app, ["check", "--model", str(model), "--hq", str(hq)])


def psnrs_of(folder: Path, hq: Path, names: Sequence[str]) -> list[float]:
    """Return the PSNR of each face between bf16 and int8, degraded as by the line; one batch."""
    lqs = []
    for name in names:
        face = images.decode_png((hq / name).read_bytes())
        drawn = recipe.draw(RECIPE, face.shape[:2], seed=42, face_id=name, variant=0)
        lqs.append(recipe.make_pair(face, drawn, RECIPE)[1])
    precisions: tuple[InferencePrecision, ...] = ("bf16", "int8")
    restorers = [load_unchecked(folder, precision=precision) for precision in precisions]
    ones, others = (
        images.from_tensor(
            restorer.restore(images.to_tensor(lqs), names, [0] * len(names)).restored_B3HW
        )
        for restorer in restorers
    )
    return [float(peak_signal_noise_ratio(*pair)) for pair in zip(ones, others, strict=True)]  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(("backbone", "condition"), [("sd21", "sdfm"), ("qwen", "text")])
def test_a_checked_model_restores_in_int8(
    tmp_path: Path, networks: Path, backbone: BackboneName, condition: str
) -> None:
    folder = trained(tmp_path, networks, backbone, condition, LINEAGE)
    hq = write_faces(tmp_path / "hq")
    (hq / "wide.png").write_bytes(images.encode_png(astronaut()[:40, :64].copy()))
    done = checked(folder, hq)
    assert done.exit_code == 0, done.output
    note = json.loads((folder / INT8_CHECK).read_bytes())
    assert note["fingerprint"] == open_model(folder).fingerprint
    assert note["faces"] == MIN_FACES
    assert 40 < note["worst_psnr"] < note["mean_psnr"] < 80
    assert note["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert f"{note['mean_psnr']:.2f}" in done.stdout
    assert "rejected: wide.png" in done.stdout


def test_the_numbers_are_those_of_the_faces_as_the_line_degrades_them(
    tmp_path: Path, networks: Path
) -> None:
    folder, hq = trained(tmp_path, networks, "sd21", "sdfm", LINEAGE), tmp_path / "hq"
    assert checked(folder, write_faces(hq, 3)).exit_code == 1  # too few faces
    note = json.loads((folder / INT8_CHECK).read_bytes())
    psnrs = psnrs_of(folder, hq, ["0.png", "1.png", "2.png"])
    assert note["mean_psnr"] == pytest.approx(np.mean(psnrs), abs=0.01)
    assert note["worst_psnr"] == pytest.approx(min(psnrs), abs=0.01)


def test_a_model_of_coarse_weights_fails_and_is_refused(tmp_path: Path, networks: Path) -> None:
    """In each row, one number is so large that 8 bits have no steps for the others."""
    folder = trained(tmp_path, networks, "sd21", "text", LINEAGE)
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    for name, tensor in tensors.items():
        if tensor.dim() == 2 and ("to_" in name or "ff." in name or "proj_" in name):
            tensor *= 4
            tensor[:, 0] = 1e3
    save_file(tensors, file, metadata={"format": "pt"})
    seal(folder)
    done = checked(folder, write_faces(tmp_path / "hq"))
    assert done.exit_code == 1, done.output
    assert "the mean PSNR is" in done.stderr
    assert json.loads((folder / INT8_CHECK).read_bytes())["mean_psnr"] < 40
    with pytest.raises(ValueError, match=r"the mean PSNR is .* dB, below 40.*: use precision bf16"):
        load_restorer(folder, precision="int8")


def test_a_model_that_was_trained_on_is_checked_again(tmp_path: Path, networks: Path) -> None:
    folder = trained(tmp_path, networks, "sd21", "text", LINEAGE)
    assert checked(folder, write_faces(tmp_path / "hq", 2)).exit_code == 1  # too few faces
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["conv_out.bias"] += 0.01
    save_file(tensors, file, metadata={"format": "pt"})
    seal(folder)
    with pytest.raises(ValueError, match=r"is of the weights .* run 'hdrface check"):
        load_restorer(folder, precision="int8")


def test_what_cannot_be_checked_is_refused_by_name(tmp_path: Path, networks: Path) -> None:
    hq = write_faces(tmp_path / "hq", 1)
    other = checked(f"onnx:{onnx_network(tmp_path / 'half.onnx')}", hq)
    assert "cannot be checked: give a trained folder" in str(other.exception)
    unknown = checked(trained(tmp_path, networks, "sd21", "text"), hq)
    assert "does not say how its faces were degraded" in str(unknown.exception)
