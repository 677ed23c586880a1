"""The ArcFace picture that is cut out of an FFHQ face, and its identity."""

from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from skimage.transform import SimilarityTransform

from components import images
from components.encoders.identity import (
    ARCFACE_POINTS,
    INPUT_SIZE,
    IdentityEncoder,
    align,
)
from components.faces.template import TEMPLATE, TEMPLATE_SIZE

FFHQ_POINTS = TEMPLATE / TEMPLATE_SIZE


def _dots(size: int) -> np.ndarray:
    """Draw a white dot on black at each FFHQ point of a `size` picture."""
    face = np.zeros((size, size, 3), np.uint8)
    for x, y in FFHQ_POINTS * size:
        cv2.circle(face, (round(x), round(y)), size // 40, (255, 255, 255), -1)
    return face


@pytest.mark.parametrize("size", [64, 512])
def test_the_five_ffhq_points_come_to_where_arcface_expects_them(size: int) -> None:
    aligned = align(_dots(size))[..., 0]
    assert aligned.shape == (INPUT_SIZE, INPUT_SIZE)
    # The two templates differ by more than a similarity: skimage's own fit says where to look.
    fit = SimilarityTransform.from_estimate(FFHQ_POINTS, ARCFACE_POINTS)
    expected = fit(FFHQ_POINTS)
    assert np.abs(expected - ARCFACE_POINTS).max() < 4
    num, _, _, centres = cv2.connectedComponentsWithStats((aligned > 60).astype(np.uint8))
    assert num == 6  # the background and five dots
    order = np.lexsort((expected[:, 0].round(), expected[:, 1].round()))
    distances = np.linalg.norm(centres[1:, None] - expected[None], axis=2)
    assert distances.min(axis=1).max() < 2, order


def test_a_fine_pattern_becomes_grey_without_aliasing() -> None:
    checks = np.indices((512, 512)).sum(axis=0) % 2 * 255
    aligned = align(np.repeat(checks[..., None], 3, axis=2).astype(np.uint8))
    assert np.ptp(aligned[10:-10, 10:-10].astype(int)) < 40


def _network(file: Path, *, first_node: str | None = None, size: int = INPUT_SIZE) -> Path:
    """Write an ONNX network whose embedding is its input, flattened."""
    nodes = [onnx.helper.make_node("Flatten", ["x"], ["y"], name="flatten")]
    if first_node:
        zero = onnx.helper.make_node("Identity", ["input"], ["a"], name="Sub_0")
        one = onnx.helper.make_node("Identity", ["a"], ["x"], name="Mul_1")
        nodes = [zero, one, *nodes]
    name = "input" if first_node else "x"
    shape = ["batch", 3, size, size]
    graph = onnx.helper.make_graph(
        nodes,
        "flat",
        [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", 3 * size**2])],
    )
    opset = onnx.helper.make_opsetid("", 13)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8), file)
    return file


def test_values_are_normalised_unless_the_network_does_it(tmp_path: Path) -> None:
    face = np.full((64, 64, 3), 51, np.uint8)
    plain = IdentityEncoder(_network(tmp_path / "plain.onnx")).embed([face])
    own = IdentityEncoder(_network(tmp_path / "own.onnx", first_node="Sub")).embed([face])
    assert plain.max() < 0 < own.min()  # 51 lies below the middle of 0 to 255
    assert np.linalg.norm(plain) == pytest.approx(1, abs=1e-5)


def test_a_pack_is_searched_for_the_network_that_takes_faces(tmp_path: Path) -> None:
    _network(tmp_path / "det_10g.onnx", size=640)
    wanted = _network(tmp_path / "w600k_r50.onnx")
    assert IdentityEncoder(tmp_path).path == wanted
    _network(tmp_path / "other.onnx")
    with pytest.raises(ValueError, match="2 networks take 112 x 112 faces"):
        IdentityEncoder(tmp_path)


def test_a_network_that_is_not_for_identities_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="neither an ONNX file nor a folder with one"):
        IdentityEncoder(tmp_path)
    with pytest.raises(ValueError, match=r"inputs .*640.* an identity network has one input"):
        IdentityEncoder(_network(tmp_path / "detector.onnx", size=640))


@pytest.mark.shared
def test_two_pictures_of_one_person_are_nearer_than_of_two(shared_dir: Path) -> None:
    names = ["020167", "060259", "063109", "113393", "012712", "015248"]
    files = [shared_dir / "faces" / "hq" / f"celebahq_{name}.jpg" for name in names]
    faces = [images.decode(file.read_bytes()) for file in files]
    encoder = IdentityEncoder(shared_dir / "weights" / "mobilefacenet.onnx")
    embeddings = encoder.embed(faces)
    cosines = embeddings @ embeddings.T
    same = [cosines[0, 1], cosines[2, 3]]
    cosines[[0, 1, 2, 3], [1, 0, 3, 2]] = np.nan
    np.fill_diagonal(cosines, np.nan)
    assert min(same) > 0.6
    assert np.nanmax(cosines) < 0.45
    # A small picture of a face is still that face.
    small = encoder.embed([images.resize(face, 64) for face in faces])
    assert np.einsum("bd,bd->b", embeddings, small).min() > 0.5
