from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from components import cluster
from components.restorers.hdrface import HDRFace
from components.restorers.int8_check import Int8Check
from components.restorers.protocol import Restoration
from components.serving import sources
from components.serving.params import ServeParams
from tests.onnx_networks import onnx_network
from tests.small_networks import trained


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")  # the settings for S3 lie in its object store
def test_another_projects_checkpoint_is_served_and_a_new_file_is_a_new_version(
    tmp_path: Path,
) -> None:
    file = onnx_network(tmp_path / "half.onnx")
    source = f"onnx:{file}"
    params = ServeParams.load("serve", Path("params.yaml")).model_copy(
        update={"self_test_psnr": 1.0}
    )
    model = sources.follow(source, params, cluster.Workplace.here())
    model.follow()
    assert model.problem == ""
    assert model.present is not None
    assert model.present.version.name == "half"
    black = np.zeros((32, 32, 3), np.uint8)
    [restored] = model.present.restorer.restore([black])
    assert restored.image.max() == 64  # half of the contrast
    before = sources.newest(source)
    onnx_network(file, number=True)
    assert sources.newest(source) != before
    with pytest.raises(FileNotFoundError, match=r"gone\.onnx"):
        sources.newest(f"onnx:{tmp_path / 'gone.onnx'}")


def test_a_served_model_is_compiled_for_each_batch_size_before_it_answers(
    tmp_path: Path, networks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    restore = HDRFace.restore

    def noted(model: HDRFace, lq_B3HW: torch.Tensor, *rest: Any, **named: Any) -> Restoration:
        sizes.append(len(lq_B3HW))
        return restore(model, lq_B3HW, *rest, **named)

    monkeypatch.setattr(HDRFace, "restore", noted)
    changes = {"compile": True, "precision": "bf16", "max_batch": 3}
    params = ServeParams.load("serve", Path("params.yaml")).model_copy(update=changes)
    source = str(trained(tmp_path, networks, "sd21", "text"))
    with torch.compiler.set_stance("force_eager"):  # compiling takes longer than all tests
        restorer = sources.load(source, params, sources.newest(source))
    assert restorer.precision == "bf16"
    assert sizes == [1, 2, 3]


def test_a_model_is_served_in_int8_only_after_its_check(tmp_path: Path, networks: Path) -> None:
    folder = trained(tmp_path, networks, "sd21", "text")
    params = ServeParams.load("serve", Path("params.yaml")).model_copy(update={"precision": "int8"})
    version = sources.newest(str(folder))
    with pytest.raises(ValueError, match=r"not checked in int8: run 'hdrface check --model"):
        sources.load(str(folder), params, version)
    Int8Check(
        fingerprint=version.fingerprint, faces=20, mean_psnr=45, worst_psnr=40, versions={}
    ).write(folder)
    assert sources.load(str(folder), params, version).precision == "int8"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("models/sd21-sdfm", "{here}/models/sd21-sdfm"),
        ("spandrel:GFPGANv1.4.pth", "spandrel:{here}/GFPGANv1.4.pth"),
        ("onnx:/networks/half.onnx", "onnx:/networks/half.onnx"),
        ("folder:results", "folder:{here}/results"),
        ("models:/hdrface@champion", "models:/hdrface@champion"),
    ],
)
def test_a_source_is_found_from_another_folder(
    source: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert sources.absolute(source) == expected.format(here=tmp_path)
