"""LMD: heat maps, ONNX networks and facexlib's, each against a plain transcription."""

from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from skimage.data import astronaut

from components import images
from components.metrics.catalogue import open_metrics
from components.metrics.landmarks import places
from tests.transcriptions import mean_reduced, pfld


def faces() -> list[images.Image]:
    whole = astronaut()[0:220, 120:340]
    return [images.resize(whole, 64), images.resize(images.resize(whole, 16), 64)]


def test_a_point_moves_a_quarter_of_a_cell_to_the_larger_neighbour() -> None:
    heat = np.zeros((1, 2, 64, 64), np.float32)
    heat[0, 0, 10, 20], heat[0, 0, 10, 21], heat[0, 0, 9, 20] = 1.0, 0.5, 0.3
    heat[0, 1, 63, 0] = 1.0  # a corner: no neighbour, no move
    assert places(heat)[0] * 64 == pytest.approx(np.array([[20.75, 10.25], [0.5, 63.5]]))


@pytest.mark.slow
def test_awing_gives_facexlibs_own_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from facexlib.alignment.awing_arch import FAN

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    torch.manual_seed(0)
    network = FAN(num_modules=4, num_landmarks=98, device="cpu").eval()
    (tmp_path / "hub/hdrface").mkdir(parents=True)
    torch.save(
        {"state_dict": network.state_dict()}, tmp_path / "hub/hdrface/alignment_WFLW_4HG.pth"
    )
    metrics, unavailable = open_metrics(["lmd_awing"], identity_network=None)
    assert not unavailable
    face = images.resize(faces()[0], 512)
    monkeypatch.setattr(np, "float", float, raising=False)  # which facexlib still uses
    with torch.no_grad():
        expected = network.get_landmarks(cv2.cvtColor(face, cv2.COLOR_RGB2BGR)) / 512
        found = metrics["lmd_awing"]._compute.find([face])[0]  # type: ignore[attr-defined]
    # On the border of a heat map, facexlib reads a cell of another row. Random maps have maxima
    # there, and then it reads a wrong neighbour above and below every point.
    inside = ((expected > 1 / 64) & (expected < 63 / 64)).all(axis=1)
    assert inside.sum() > 10
    assert found[inside, 0] == pytest.approx(expected[inside, 0], abs=1e-6)
    assert found[inside, 1] == pytest.approx(expected[inside, 1], abs=0.5 / 64 + 1e-6)


@pytest.mark.shared
def test_pfld_equals_its_transcription(
    shared_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub/hdrface").mkdir(parents=True)
    network = shared_dir / "weights/pfld_68.onnx"
    (tmp_path / "hub/hdrface/pfld_68.onnx").symlink_to(network)
    metrics, _ = open_metrics(["lmd_pfld"], identity_network=None)
    [file] = sorted((shared_dir / "faces/hq").glob("celebahq_*.jpg"))[:1]
    hq = images.resize(images.decode(file.read_bytes()), 400)
    blurred = images.resize(images.resize(hq, 60), 400)
    published = onnx.load(network).graph.initializer
    weights = {one.name: torch.from_numpy(numpy_helper.to_array(one).copy()) for one in published}

    def points(face: np.ndarray) -> np.ndarray:
        small = mean_reduced(face[100 : 100 + 220, 90 : 90 + 220], 112)
        given = torch.from_numpy((small / 255).astype(np.float32).transpose(2, 0, 1))
        return pfld(weights, given[None])[0].double().numpy() * 220 / 400 * 512

    expected = np.linalg.norm(points(hq) - points(blurred), axis=1).mean()
    given, true = images.to_tensor([blurred, hq]), images.to_tensor([hq, hq])
    assert metrics["lmd_pfld"](given, true) == pytest.approx([expected, 0], abs=1e-3)
    assert 0.5 < expected < 20
    # The mouth's corners lie where the template has them.
    assert points(hq)[[48, 54]] == pytest.approx(
        np.array([[201.3, 371.4], [313.1, 371.2]]) - np.array([90, 100]) / 400 * 512, abs=25
    )


def write_106(file: Path) -> None:
    """Write a random network that takes and gives what 2d106det does; it normalises by itself."""
    draw = np.random.default_rng(0)
    linear = draw.normal(0, 0.5, (3 * 4 * 4, 106 * 2)).astype(np.float32)
    constants = {"middle": np.float32(127.5), "scale": np.float32(1 / 128), "linear": linear}
    nodes = [
        onnx.helper.make_node("Sub", ["data", "middle"], ["a"], name="Sub_0"),
        onnx.helper.make_node("Mul", ["a", "scale"], ["b"], name="Mul_0"),
        onnx.helper.make_node("AveragePool", ["b"], ["c"], kernel_shape=[48, 48], strides=[48, 48]),
        onnx.helper.make_node("Flatten", ["c"], ["d"]),
        onnx.helper.make_node("MatMul", ["d", "linear"], ["e"]),
        onnx.helper.make_node("Tanh", ["e"], ["fc1"]),
    ]
    given, found = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("data", ["batch", 3, 192, 192]), ("fc1", ["batch", 212]))
    )
    stored = [numpy_helper.from_array(np.asarray(one), name) for name, one in constants.items()]
    graph = onnx.helper.make_graph(nodes, "landmarks", [given], [found], stored)
    opset = onnx.helper.make_opsetid("", 13)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8), file)


@pytest.mark.filterwarnings("ignore")  # insightface calls what scikit-image will drop
def test_insightface_106_gives_its_own_points(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from insightface.app.common import Face
    from insightface.model_zoo.landmark import Landmark

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub/hdrface").mkdir(parents=True)
    file = tmp_path / "hub/hdrface/2d106det.onnx"
    write_106(file)
    metrics, unavailable = open_metrics(["lmd_insightface"], identity_network=None)
    assert not unavailable
    # Its square is 1.5 times the face's box: here the whole picture, whose size is the network's.
    box = np.array([32, 32, 160, 160], np.float32)

    def points(face: np.ndarray) -> np.ndarray:
        bgr = cv2.cvtColor(face, cv2.COLOR_RGB2BGR)
        return Landmark(str(file)).get(bgr, Face(bbox=box)) / 192 * 512

    hq, blurred = (images.resize(face, 192) for face in faces())
    expected = np.linalg.norm(points(blurred) - points(hq), axis=1).mean()
    given, true = images.to_tensor([blurred, hq]), images.to_tensor([hq, hq])
    assert metrics["lmd_insightface"](given, true) == pytest.approx([expected, 0], abs=1e-3)
    assert expected > 0.1


def test_another_network_of_landmarks_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.onnx_networks import onnx_network

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub/hdrface").mkdir(parents=True)
    onnx_network(tmp_path / "hub/hdrface/2d106det.onnx", side=32)
    _, unavailable = open_metrics(["lmd_insightface"], identity_network=None)
    assert "its input is [1, 3, 32, 32], not (batch, 3, 192, 192)" in unavailable["lmd_insightface"]
