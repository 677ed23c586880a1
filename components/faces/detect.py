"""Find faces and their five landmarks, with the detector in a file: SCRFD or YuNet."""

from __future__ import annotations

import threading
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from components import images
from components.faces.any_way_up import AnyWayUp
from components.faces.detection import Box, Detection, Detector, from_left, grouped

__all__ = ["Detection", "Detector", "DetectorError", "Scrfd", "YuNet", "open_detector"]

_OVERLAP = 0.4  # two boxes that overlap by more are one face; InsightFace's default
# InsightFace's sizes: at 128 pixels it finds faces that fill the picture, at 640 the others.
_SCRFD_SIZES = [(128, 128), (640, 640)]
# YuNet finds faces of 10 to 300 pixels; of larger ones it finds parts, at lower scores than the
# whole face at the smaller size.
_YUNET_SIDES = (1280, 320)


class DetectorError(ValueError):
    """A file holds no known detector; the message says what it holds."""


def open_detector(file: Path, *, min_score: float) -> Detector:
    """Load a detector from an ONNX file; its outputs show which one it is.

    It finds each face once, whichever way up.

    Raises: DetectorError if it cannot be read or is neither SCRFD with landmarks nor YuNet.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # another number of cores must not change a landmark's bits
    options.inter_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(
            file.read_bytes(), options, providers=["CPUExecutionProvider"]
        )
    except OSError as error:
        raise DetectorError(f"{file} cannot be read: {error.strerror}") from error
    except Exception as error:  # its errors share no other class
        raise DetectorError(f"{file} is not an ONNX network: {error}") from error
    outputs = [output.name for output in session.get_outputs()]
    if {"cls_8", "obj_8", "bbox_8", "kps_8"} <= set(outputs):
        return AnyWayUp(YuNet(file, min_score=min_score))
    if len(outputs) in (9, 15):  # scores, boxes and landmarks at 3 or 5 scales
        return AnyWayUp(Scrfd(file, session, min_score=min_score))
    raise DetectorError(
        f"{file} is neither SCRFD with landmarks (9 or 15 outputs) nor YuNet; "
        f"it has {len(outputs)} outputs: {', '.join(outputs[:4])}"
    )


class Scrfd:
    """InsightFace's SCRFD, through InsightFace."""

    def __init__(self, file: Path, session: object, *, min_score: float) -> None:
        from insightface.model_zoo import SCRFD

        self._network = SCRFD(str(file), session=session)
        self._network.prepare(-1, nms_thresh=_OVERLAP, det_thresh=min_score)

    def detect(self, image: images.Image) -> list[Detection]:
        bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        found = self._detect(bgr)
        if not found and self._network.static_input_size:
            # Its input has a fixed size, so a face that fills the picture gets a frame instead.
            height, width = image.shape[:2]
            frame = (height // 2, height // 2, width // 2, width // 2)
            found = self._detect(
                cv2.copyMakeBorder(bgr, *frame, cv2.BORDER_CONSTANT), (-frame[2], -frame[0])
            )
        return from_left(found)

    def _detect(self, bgr: object, shift: tuple[int, int] = (0, 0)) -> list[Detection]:
        boxes, points = self._network.detect(bgr, input_size=_SCRFD_SIZES)
        return [
            Detection(
                five.astype(np.float64) + shift, float(box[4]), _box(box[:4] + np.tile(shift, 2))
            )
            for box, five in zip(boxes, points, strict=True)
        ]


class YuNet:
    """OpenCV's YuNet, through OpenCV; threads that share it wait for each other."""

    def __init__(self, file: Path, *, min_score: float) -> None:
        most = 5000  # candidates before overlapping ones are merged; OpenCV's default
        # The network keeps the picture's size and buffers between calls.
        self._turn = threading.Lock()
        # OpenCV warns of a setting that it makes itself.
        before = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
        self._network = cv2.FaceDetectorYN.create(
            str(file), "", (320, 320), min_score, _OVERLAP, most
        )
        cv2.utils.logging.setLogLevel(before)

    def detect(self, image: images.Image) -> list[Detection]:
        sides = {min(side, max(image.shape[:2])) for side in _YUNET_SIDES}
        found = [one for side in sorted(sides) for one in self._detect(image, side)]
        return from_left(group[0] for group in grouped(found))

    def _detect(self, image: images.Image, longest: int) -> list[Detection]:
        """Find faces in a picture made smaller, its longer side `longest` pixels."""
        height, width = image.shape[:2]
        scale = longest / max(height, width)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        if scale < 1:
            bgr = cv2.resize(bgr, size, interpolation=cv2.INTER_AREA)
        with self._turn:
            self._network.setInputSize(size)
            found = self._network.detect(bgr)[1]
        if found is None:
            return []
        rows = np.asarray(found, dtype=np.float64)
        stretch = np.array([width / size[0], height / size[1]])
        return [
            Detection(
                # YuNet's right eye is the person's, on the left of the picture: METHOD's order.
                row[4:14].reshape(5, 2) * stretch,
                float(row[14]),
                _box(np.concatenate([row[:2] * stretch, (row[:2] + row[2:4]) * stretch])),
            )
            for row in rows
        ]


def _box(corners: npt.NDArray[np.floating]) -> Box:
    left, top, right, bottom = map(float, corners)
    return left, top, right, bottom
