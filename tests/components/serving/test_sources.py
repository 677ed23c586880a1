from pathlib import Path

import numpy as np
import pytest

from components import cluster
from components.serving import sources
from components.serving.params import ServeParams
from tests.onnx_networks import onnx_network


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
