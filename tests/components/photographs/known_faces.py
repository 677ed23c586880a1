"""Photographs whose faces are known, and a detector that says where they are."""

from collections.abc import Sequence
from dataclasses import dataclass

from components.faces.detect import Detection
from components.faces.landmarks import Landmarks
from components.images import Image
from components.photographs.face_restorer import FaceRestorer
from components.photographs.photograph import Photograph
from components.photographs.restoration import PhotographRestorer
from components.portraits import drawing


@dataclass(frozen=True)
class KnownFaces:
    """A detector for one photograph."""

    landmarks: Sequence[Landmarks]

    def detect(self, image: Image) -> list[Detection]:
        del image
        return [
            Detection(points, 0.9, (*points.min(axis=0).tolist(), *points.max(axis=0).tolist()))
            for points in sorted(self.landmarks, key=lambda points: float(points[:, 0].mean()))
        ]


def portrait(number: int = 1) -> tuple[Photograph, KnownFaces]:
    """Draw a photograph of one face, 320 pixels wide."""
    drawn = drawing.draw(1, number)
    return Photograph(drawn.image, "png"), KnownFaces([drawn.landmarks])


def restorer_of(faces: FaceRestorer, detector: KnownFaces) -> PhotographRestorer:
    return PhotographRestorer(faces, detector=detector)
