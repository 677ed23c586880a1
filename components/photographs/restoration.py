"""From a photograph to its restoration and a record of what became of each face.

The steps are functions of their own, so that a server can run them where it likes:
`prepare` finds and cuts the faces, a `FaceRestorer` restores those of many photographs at once,
`finish` puts them back. `PhotographRestorer` is all of it in one process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
from pydantic import Field, PositiveInt, ValidationInfo, field_validator

from components import images
from components.faces import align
from components.faces.detect import Detector
from components.images import Image
from components.metrics.identity import IdentityAngle
from components.params import Params
from components.photographs import finding
from components.photographs.background import Upscaler, lanczos
from components.photographs.color_fix import ColorFix
from components.photographs.face_restorer import FaceRestorer, RestoredFace
from components.photographs.finding import FoundFace
from components.photographs.paste import paste
from components.photographs.photograph import MAX_PIXELS, Photograph


class RestoreOptions(Params):
    """What can be asked for when a photograph is restored."""

    aligned: bool = False  # the photograph is one FFHQ-aligned face: nothing is looked for
    only_center_face: bool = False
    min_face: PositiveInt = 16  # pixels: a narrower face is left as it is
    fidelity: Annotated[float, Field(ge=0, le=1)] = 1.0  # METHOD, section 4
    color_fix: ColorFix | None = None  # None: the paper's choice for the model's backbone
    scale: Annotated[float, Field(ge=1, le=4)] = 1.0  # of the result, in sides of the photograph
    max_angle: Annotated[float, Field(gt=0, le=180)] | None = None  # degrees; above, it is flagged
    leave_flagged: bool = False  # a flagged face is left as it was

    @field_validator("leave_flagged")
    @classmethod
    def _needs_a_limit(cls, leave_flagged: bool, info: ValidationInfo) -> bool:
        if leave_flagged and info.data.get("max_angle", 0) is None:
            raise ValueError("it needs a limit: give max_angle")
        return leave_flagged


@dataclass(frozen=True)
class FaceRecord:
    """What became of a face; pixels are those of the upright photograph, before `scale`."""

    box: tuple[float, float, float, float]  # left, top, right, bottom
    landmarks: list[tuple[float, float]]  # eyes, nose, corners of the mouth, from the left
    score: float | None  # of the detector, in [0, 1]; None: the photograph was aligned
    width: float | None  # about its width, pixels; None: its landmarks are no face
    inside: float | None  # share of its aligned square that the photograph shows; 1: not cut off
    misfit: float | None  # from a frontal face, in eye distances: turned by much from 0.1 on
    angle: float | None  # degrees between the identities before and after; None: not measured
    flagged: bool  # the angle is above the limit
    restored: bool
    reason: str | None  # why it was left as it was


@dataclass(frozen=True)
class PhotographRecord:
    """What became of a photograph, ready for JSON (`dataclasses.asdict`)."""

    width: int  # of the upright photograph, pixels
    height: int
    output_width: int
    output_height: int
    model_size: int  # pixels of the square that the model restores a face at
    faces: list[FaceRecord]  # from the photograph's left to its right
    num_restored: int
    note: str | None  # said when there is nothing to restore


@dataclass(frozen=True)
class Prepared:
    """A photograph's faces, and the aligned squares, uint8 (size, size, 3), of the usable ones."""

    faces: list[FoundFace]
    squares: list[Image]


@dataclass(frozen=True)
class Restored:
    """A restored photograph, its record, and the gates of its restored faces."""

    photograph: Photograph
    record: PhotographRecord
    faces: list[RestoredFace]  # one for each of `Prepared.squares`


def prepare(
    image: Image, detector: Detector | None, options: RestoreOptions, *, size: int
) -> Prepared:
    """Find a photograph's faces and cut them out of its own pixels, `size` wide.

    Raises: ValueError if an aligned photograph is not square, there is no detector for one that
    is not aligned, or the result would be too large.
    """
    height, width = image.shape[:2]
    output_size(width, height, options.scale)
    faces = find(image, detector, options)
    return Prepared(faces, cut_squares(image, faces, options, size=size))


def find(image: Image, detector: Detector | None, options: RestoreOptions) -> list[FoundFace]:
    """Find a photograph's faces. Raises: ValueError, as `prepare`."""
    if options.aligned:
        return [finding.whole_face(image)]
    if detector is None:
        raise ValueError("name a face detector (SCRFD or YuNet), or say that faces are 'aligned'")
    return finding.find_faces(
        image, detector, min_face=options.min_face, only_center_face=options.only_center_face
    )


def cut_squares(
    image: Image, faces: Sequence[FoundFace], options: RestoreOptions, *, size: int
) -> list[Image]:
    """Cut the aligned squares of the usable faces, in their order, uint8 (size, size, 3)."""
    if options.aligned:
        return [images.resize(image, size)]
    return [
        align.cut(image, face.similarity, size)
        for face in faces
        if face.reason is None and face.similarity is not None
    ]


def finish(
    image: Image,
    prepared: Prepared,
    restored: Sequence[Image],
    options: RestoreOptions,
    *,
    size: int,
    angles: Sequence[float] | None = None,
    upscale: Upscaler = lanczos,
) -> tuple[Image, PhotographRecord]:
    """Put restored faces back into the enlarged photograph, and record what became of each.

    Args:
        image: the photograph that was prepared, (H, W, 3).
        prepared: its faces.
        restored: of `prepared.squares`, one each, in their order.
        options: those that it was prepared with.
        size: pixels, of the model.
        angles: degrees, one for each restored face; None: not measured.
        upscale: makes the background.

    Returns: the picture, `options.scale` times larger, and the record.
    """
    height, width = image.shape[:2]
    out_width, out_height = output_size(width, height, options.scale)
    canvas = np.array(upscale(image, (out_width, out_height)))
    scale = (out_width / width, out_height / height)
    known: Sequence[float | None] = [None] * len(restored) if angles is None else angles
    results = iter(zip(restored, known, strict=True))
    records = []
    for face in prepared.faces:
        square, angle = next(results) if face.reason is None else (None, None)
        record = _record(face, image, angle, options)
        records.append(record)
        if square is None or face.similarity is None or not record.restored:
            continue
        if options.aligned:  # there is nothing around it that it must fit to
            canvas = images.resize(square, out_width)
        else:
            paste(canvas, square, face.similarity, face.landmarks, scale)
    num_restored = sum(record.restored for record in records)
    return canvas, PhotographRecord(
        width=width,
        height=height,
        output_width=out_width,
        output_height=out_height,
        model_size=size,
        faces=records,
        num_restored=num_restored,
        note=_note(len(records), num_restored),
    )


class PhotographRestorer:
    """Restore whole photographs in this process."""

    def __init__(
        self,
        restorer: FaceRestorer,
        *,
        detector: Detector | None = None,
        angle: IdentityAngle | None = None,
        upscale: Upscaler = lanczos,
    ) -> None:
        """Put the parts together; only aligned photographs need no detector."""
        self.restorer, self.detector, self.angle = restorer, detector, angle
        self.upscale = upscale

    def check(self, options: RestoreOptions) -> None:
        """Raise ValueError if the options ask for what these parts cannot do."""
        self.restorer.check(options.fidelity)
        if options.max_angle is not None and self.angle is None:
            raise ValueError("max_angle needs an identity network: name one")

    def prepare(self, photograph: Photograph, options: RestoreOptions) -> Prepared:
        """Find and cut the faces of one photograph. Raises: as the function `prepare`."""
        return prepare(photograph.pixels, self.detector, options, size=self.restorer.size)

    def restore(self, photograph: Photograph, options: RestoreOptions) -> Restored:
        """Restore one photograph. Raises: ValueError, as `check` and `prepare`."""
        [restored] = self.restore_prepared(
            [(photograph, self.prepare(photograph, options))], options
        )
        return restored

    def restore_prepared(
        self, photographs: Sequence[tuple[Photograph, Prepared]], options: RestoreOptions
    ) -> list[Restored]:
        """Restore the faces of several photographs as one batch, and put each where it belongs."""
        self.check(options)
        squares = [square for _, prepared in photographs for square in prepared.squares]
        faces = self.restorer.restore(
            squares, fidelity=options.fidelity, color_fix=options.color_fix
        )
        angles: list[float] | None = None
        if self.angle is not None and squares:
            after = images.to_tensor([face.image for face in faces])
            angles = self.angle(after, images.to_tensor(squares)).tolist()
        done: list[Restored] = []
        start = 0
        for photograph, prepared in photographs:
            own = slice(start, start + len(prepared.squares))
            start = own.stop
            canvas, record = finish(
                photograph.pixels,
                prepared,
                [face.image for face in faces[own]],
                options,
                size=self.restorer.size,
                angles=None if angles is None else angles[own],
                upscale=self.upscale,
            )
            done.append(Restored(replace(photograph, pixels=canvas), record, faces[own]))
        return done


def output_size(width: int, height: int, scale: float) -> tuple[int, int]:
    """Give width and height of the result. Raises: ValueError if it has too many pixels."""
    wanted = round(width * scale), round(height * scale)
    if wanted[0] * wanted[1] > MAX_PIXELS:
        raise ValueError(
            f"scale = {scale:g} makes {wanted[0]} x {wanted[1]} of {width} x {height}, at most "
            f"{MAX_PIXELS:,} pixels: ask for less"
        )
    return wanted


def _record(
    face: FoundFace, image: Image, angle: float | None, options: RestoreOptions
) -> FaceRecord:
    flagged = angle is not None and options.max_angle is not None and angle > options.max_angle
    reason = face.reason
    if flagged and options.leave_flagged:
        reason = f"its identity turned by {angle:.0f} degrees, above {options.max_angle:g}"
    similarity = face.similarity
    return FaceRecord(
        box=face.box,
        landmarks=[(x, y) for x, y in face.landmarks.tolist()],
        score=face.score,
        width=face.width,
        inside=None if similarity is None else finding.share_inside(similarity, image),
        misfit=None if similarity is None else similarity.misfit,
        angle=angle,
        flagged=flagged,
        restored=reason is None,
        reason=reason,
    )


def _note(num_faces: int, num_restored: int) -> str | None:
    if num_faces == 0:
        return "no face found"
    if num_restored == 0:
        return "no face was restored: each says why"
    return None
