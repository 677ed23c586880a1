"""Cut every usable face out of a picture, aligned; give the reason for each one left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from components import images
from components.faces import align
from components.faces.detect import Detector
from components.faces.landmarks import Landmarks

MIN_SCORE = 0.5  # a detection with this score is a face; InsightFace's default
CANDIDATE_SCORE = 0.3  # a detection with this score is worth a line in the `rejected` list


class Face(NamedTuple):
    face_id: str  # the file's name, with #1, #2, ... from the left if it shows several faces
    hq: images.Image  # RGB, `size` wide


class Cut(NamedTuple):
    """The result for one picture: its faces, and a reason for each one left out."""

    faces: list[Face]
    reasons: list[str]


class FaceCutter:
    """Turn one picture's bytes into aligned faces.

    Landmarks are given, or the detector finds them. An `aligned` picture is one face. A face is too
    small if half of its aligned square, about its width, is below `min_face` pixels of the
    photograph.
    """

    def __init__(
        self, *, size: int, min_face: int, aligned: bool, detector: Detector | None
    ) -> None:
        self.size, self.min_face, self.aligned = size, min_face, aligned
        self.detector = detector

    def cut(self, file: str, data: bytes, given: Sequence[Landmarks] = ()) -> Cut:
        """Cut the faces of one picture, from its left to its right."""
        try:
            image = images.decode(data)
        except images.ImageError as error:
            return Cut([], [str(error)])
        if self.aligned:
            return self._take_whole(file, image)
        landmarks, reasons = self._landmarks(image, given)
        squares: list[images.Image] = []
        for points in sorted(landmarks, key=lambda points: float(points[:, 0].mean())):
            try:
                squares.append(self._square(image, points))
            except align.AlignmentError as error:
                x, y = points.mean(axis=0)
                reasons.append(f"the face at ({x:.0f}, {y:.0f}): {error}")
        width = len(str(len(squares)))
        ids = [f"{file}#{number:0{width}d}" for number in range(1, len(squares) + 1)]
        if len(squares) == 1:
            ids = [file]
        return Cut([Face(*face) for face in zip(ids, squares, strict=True)], reasons)

    def _landmarks(
        self, image: images.Image, given: Sequence[Landmarks]
    ) -> tuple[list[Landmarks], list[str]]:
        if given:
            return list(given), []
        if self.detector is None:
            return [], ["no landmarks are given for it: name a detector (faces.detector)"]
        found = self.detector.detect(image)
        if not found:
            return [], ["no face found"]
        usable = [face for face in found if face.score >= MIN_SCORE and face.doubt is None]
        reasons = [
            f"the face at ({x:.0f}, {y:.0f}): "
            + (face.doubt or f"its score is {face.score:.2f}, below {MIN_SCORE}")
            for face in found
            if face.score < MIN_SCORE or face.doubt is not None
            for x, y in [face.middle]
        ]
        return [face.landmarks for face in usable], reasons

    def _square(self, image: images.Image, points: Landmarks) -> images.Image:
        height, width = image.shape[:2]
        x, y = points.mean(axis=0)
        if not (0 <= x < width and 0 <= y < height):
            raise align.AlignmentError(f"it lies outside the picture, {width} x {height}")
        similarity = align.fit(points)
        self._check_size(similarity.crop_side / 2)
        return align.cut(image, similarity, self.size)

    def _take_whole(self, file: str, image: images.Image) -> Cut:
        height, width = image.shape[:2]
        if height != width:
            return Cut(
                [],
                [
                    f"{width} x {height} is not square, as aligned faces are: for photographs, set "
                    "faces.aligned to false and name a detector (faces.detector)"
                ],
            )
        try:
            self._check_size(width / 2)
        except align.AlignmentError as error:
            return Cut([], [str(error)])
        return Cut([Face(file, images.resize(image, self.size))], [])

    def _check_size(self, face_width: float) -> None:
        if face_width < self.min_face:
            raise align.AlignmentError(
                f"it is about {face_width:.0f} pixels wide, at least {self.min_face} are needed "
                "(faces.min_face)"
            )
