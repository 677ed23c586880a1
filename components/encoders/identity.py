"""Who it is: the embedding of an aligned face by an ArcFace-like ONNX network.

B batch, D embedding width.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from components import images
from components.faces.template import TEMPLATE, TEMPLATE_SIZE
from components.hashes import sha256_of
from components.images import Image

INPUT_SIZE = 112
# The five points of `TEMPLATE` in the 112 x 112 picture that ArcFace networks were trained on.
ARCFACE_POINTS = np.array(
    [
        (38.2946, 51.6963),
        (73.5318, 51.5014),
        (56.0252, 71.7366),
        (41.5493, 92.3655),
        (70.7299, 92.2041),
    ]
)


class IdentityEncoder:
    """Embed FFHQ-aligned faces with an ONNX identity network.

    `path` is an ONNX file, or an InsightFace pack: a folder in which one ONNX file takes
    112 x 112 faces. The five points of the FFHQ template are the landmarks, so no detector runs.

    Raises: FileNotFoundError if there is no such network, ValueError if its inputs are different.
    """

    def __init__(self, path: Path) -> None:
        self.path = find_network(path)
        self.sha256 = sha256_of(self.path)
        self._session = _open(self.path)
        if not _takes_faces(self._session):
            shapes = [tensor.shape for tensor in self._session.get_inputs()]
            raise ValueError(
                f"{self.path}: inputs {shapes}, but an identity network has one input "
                f"(batch, 3, {INPUT_SIZE}, {INPUT_SIZE})"
            )
        self._input: str = self._session.get_inputs()[0].name
        self._one_by_one = self._session.get_inputs()[0].shape[0] == 1
        self._normalises_itself = _normalises_itself(self.path)

    def embed(self, faces: Sequence[Image]) -> npt.NDArray[np.float32]:
        """Return unit vectors (B, D) of square FFHQ-aligned faces of any size."""
        crops = np.stack([align(face) for face in faces]).transpose(0, 3, 1, 2).astype(np.float32)
        if not self._normalises_itself:
            crops = (crops - 127.5) / 127.5
        step = 1 if self._one_by_one else len(crops)
        embeddings = np.concatenate(
            [
                self._session.run(None, {self._input: crops[start : start + step]})[0]
                for start in range(0, len(crops), step)
            ]
        )
        lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
        return np.asarray(embeddings / lengths, dtype=np.float32)


def align(face: Image) -> Image:
    """Return the 112 x 112 ArcFace picture of an FFHQ-aligned one, without aliasing."""
    points = TEMPLATE / TEMPLATE_SIZE  # as fractions of the picture
    scale = np.hypot(*_similarity(points, ARCFACE_POINTS)[0, :2])
    size = face.shape[0]
    # The warp samples bilinearly, so a larger picture is first reduced by area to about its scale.
    face = images.resize(face, min(size, round(scale)))
    matrix = _similarity(points * face.shape[0], ARCFACE_POINTS)
    warped = cv2.warpAffine(face, matrix, (INPUT_SIZE, INPUT_SIZE), flags=cv2.INTER_LINEAR)
    return np.asarray(warped, dtype=np.uint8)


def _similarity(
    source: npt.NDArray[np.float64], target: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Find the least-squares rotation, scale and shift (2, 3) from `source` to `target`."""
    # A similarity is z -> a z + b on complex numbers, so this is a linear fit.
    z, w = source @ (1, 1j), target @ (1, 1j)
    a = np.vdot(z - z.mean(), w - w.mean()) / np.vdot(z - z.mean(), z - z.mean())
    b = w.mean() - a * z.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def find_network(path: Path) -> Path:
    """Return the identity network's file: the path itself, or the one in an InsightFace pack.

    Raises: FileNotFoundError, ValueError if a folder holds none or several.
    """
    if path.is_file():
        return path
    files = sorted(path.glob("*.onnx"))
    if not files:
        raise FileNotFoundError(f"{path}: neither an ONNX file nor a folder with one")
    found = [file for file in files if _takes_faces(_open(file))]
    if len(found) != 1:
        seen = ", ".join(file.name for file in files)
        raise ValueError(
            f"{path}: {len(found)} networks take {INPUT_SIZE} x {INPUT_SIZE} faces ({seen}): "
            "name the identity network's file"
        )
    return found[0]


def _open(file: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def _takes_faces(session: Any) -> bool:
    inputs = session.get_inputs()
    return len(inputs) == 1 and inputs[0].shape[1:] == [3, INPUT_SIZE, INPUT_SIZE]


def _normalises_itself(file: Path) -> bool:
    """Return whether a network expects 0 to 255: InsightFace's rule, for networks from MXNet."""
    import onnx

    names = [node.name for node in onnx.load(file, load_external_data=False).graph.node[:8]]
    subtracts = any(name.startswith(("Sub", "_minus")) for name in names)
    multiplies = any(name.startswith(("Mul", "_mul")) for name in names)
    return subtracts and multiplies
