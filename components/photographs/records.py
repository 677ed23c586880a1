"""What was done to a photograph and to each of its faces, ready for JSON (`dataclasses.asdict`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from components.images import Image
from components.photographs import finding
from components.photographs.finding import FoundFace
from components.photographs.options import GUARD_ANGLE, RestoreOptions


@dataclass(frozen=True)
class FaceRecord:
    """What was done to one face; pixels are those of the upright photograph, before `scale`."""

    box: tuple[float, float, float, float]  # left, top, right, bottom
    landmarks: list[tuple[float, float]]  # eyes, nose, corners of the mouth, from the left
    score: float | None  # of the detector, in [0, 1]; None: the photograph was aligned
    width: float | None  # approximate, in pixels; None: the landmarks do not form a face
    inside: float | None  # share of its aligned square inside the photograph; 1: not cut off
    misfit: float | None  # from a frontal face, in eye distances; above 0.1: turned far away
    angle: float | None  # degrees between the identities before and after; None: not measured
    flagged: bool  # the angle is above the limit, or the face or its result is doubtful
    restored: bool
    reason: str | None  # why it was not restored


@dataclass(frozen=True)
class PhotographRecord:
    """What was done to a photograph."""

    width: int  # of the upright photograph, pixels
    height: int
    output_width: int
    output_height: int
    model_size: int  # pixels of the square in which the model restores a face
    faces: list[FaceRecord]  # from the photograph's left to its right
    num_restored: int
    note: str | None  # why no face was restored, and what of the file the result does not hold


def face_record(
    face: FoundFace,
    image: Image,
    angle: float | None,
    options: RestoreOptions,
    problem: str | None = None,
) -> FaceRecord:
    """Make the record of a face, and decide with it whether the face is restored.

    `problem` is why its result is not to be shown.
    """
    limit = GUARD_ANGLE if options.max_angle is None else options.max_angle
    is_other = angle is not None and angle > limit
    reason = face.reason or problem
    if reason is None and is_other and options.leave_flagged:
        reason = f"its identity turned by {angle:.0f} degrees, more than {limit:g}"
    similarity = face.similarity
    return FaceRecord(
        box=face.box,
        landmarks=[(x, y) for x, y in face.landmarks.tolist()],
        score=face.score,
        width=face.width,
        inside=None if similarity is None else finding.share_inside(similarity, image),
        misfit=None if similarity is None else similarity.misfit,
        angle=angle,
        flagged=is_other or face.is_doubtful or problem is not None,
        restored=reason is None,
        reason=reason,
    )


def photograph_record(
    before: Image, after: Image, faces: Sequence[FaceRecord], *, model_size: int
) -> PhotographRecord:
    """Make the record of a photograph from the records of its faces."""
    num_restored = sum(face.restored for face in faces)
    note = None
    if not faces:
        note = "no face found"
    elif not num_restored:
        note = "no face was restored: each face has its reason"
    return PhotographRecord(
        width=before.shape[1],
        height=before.shape[0],
        output_width=after.shape[1],
        output_height=after.shape[0],
        model_size=model_size,
        faces=list(faces),
        num_restored=num_restored,
        note=note,
    )


def with_notes(record: PhotographRecord, notes: Sequence[str]) -> PhotographRecord:
    """Add what was reduced as the photograph's file was written."""
    said = [*([record.note] if record.note else []), *notes]
    return replace(record, note="; ".join(said) or None)
