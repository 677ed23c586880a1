"""Restore a photograph, and record what was done to each face.

The steps are separate functions, so that a server can run each in another process: `prepare` finds
and cuts the faces, a `FaceRestorer` restores those of many photographs at once, `finish` pastes
them back. `PhotographRestorer` runs all three in one process.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from components import images
from components.faces import align
from components.faces.detect import Detector
from components.images import Image
from components.metrics.identity import IdentityAngle
from components.photographs import finding
from components.photographs.background import Upscaler, lanczos
from components.photographs.face_restorer import FaceRestorer, RestoredFace
from components.photographs.finding import FoundFace
from components.photographs.options import RestoreOptions
from components.photographs.paste import paste
from components.photographs.photograph import MAX_PIXELS, Photograph
from components.photographs.records import (
    FaceRecord,
    PhotographRecord,
    face_record,
    photograph_record,
)


@dataclass(frozen=True)
class Prepared:
    """A photograph's faces, and the aligned squares, uint8 (size, size, 3), of the usable ones.

    `intermediates` are the same squares of a first restoration of the photograph, if one is given.
    """

    faces: list[FoundFace]
    squares: list[Image]
    intermediates: list[Image] | None = None


@dataclass(frozen=True)
class RestoredPhotograph:
    """A restored photograph, its record, and its restored faces."""

    photograph: Photograph
    record: PhotographRecord
    faces: list[RestoredFace]  # one for each of `Prepared.squares`


def prepare(
    image: Image,
    detector: Detector | None,
    options: RestoreOptions,
    *,
    size: int,
    intermediate: Image | None = None,
) -> Prepared:
    """Find a photograph's faces and cut squares from its original pixels, `size` wide.

    `intermediate` is a first restoration of the whole photograph: of its size, or square like an
    aligned one.

    Raises: ValueError if an aligned photograph is not square, there is no detector for one that
    is not aligned, the result would be too large, or the first restoration has another size.
    """
    height, width = image.shape[:2]
    output_size(width, height, options.scale)
    faces = find(image, detector, options)
    squares = cut_squares(image, faces, options, size=size)
    if intermediate is None:
        return Prepared(faces, squares)
    firsts = cut_intermediates(image, intermediate, faces, options, size=size)
    return Prepared(faces, squares, firsts)


def find(image: Image, detector: Detector | None, options: RestoreOptions) -> list[FoundFace]:
    """Find a photograph's faces. Raises: ValueError, as `prepare`."""
    if options.aligned:
        return [finding.whole_face(image)]
    if detector is None:
        raise ValueError("give a face detector (SCRFD or YuNet), or set 'aligned'")
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


def cut_intermediates(
    image: Image,
    intermediate: Image,
    faces: Sequence[FoundFace],
    options: RestoreOptions,
    *,
    size: int,
) -> list[Image]:
    """Cut the squares of a photograph's faces from a first restoration of the photograph.

    Raises: ValueError if that has another size; of an aligned one, if it is not square.
    """
    if intermediate.shape != image.shape and not options.aligned:
        raise ValueError(
            f"the first restoration is {intermediate.shape[1]} x {intermediate.shape[0]}, the "
            f"photograph {image.shape[1]} x {image.shape[0]}: give one of its size"
        )
    return cut_squares(intermediate, faces, options, size=size)


def finish(
    image: Image,
    prepared: Prepared,
    restored: Sequence[Image],
    options: RestoreOptions,
    *,
    size: int,
    problems: Sequence[str | None] | None = None,
    angles: Sequence[float] | None = None,
    upscale: Upscaler = lanczos,
) -> tuple[Image, PhotographRecord]:
    """Paste restored faces into the enlarged photograph, and record what was done to each face.

    Args:
        image: the photograph that was prepared, (H, W, 3).
        prepared: its faces.
        restored: one image for each of `prepared.squares`, in their order.
        options: those that it was prepared with.
        size: width of the model's faces, in pixels.
        problems: one for each restored face: why it is not to be shown, or None.
        angles: degrees, one for each restored face; None: not measured.
        upscale: makes the background.

    Returns: the picture, `options.scale` times larger, and the record.
    """
    height, width = image.shape[:2]
    out_width, out_height = output_size(width, height, options.scale)
    canvas = np.array(upscale(image, (out_width, out_height)))
    scale = (out_width / width, out_height / height)
    records: list[FaceRecord] = []
    for face, square, problem, angle in _with_results(prepared.faces, restored, problems, angles):
        record = face_record(face, image, angle, options, problem)
        records.append(record)
        if square is None or face.similarity is None or not record.restored:
            continue
        if options.aligned:  # the face is the whole picture: no border to blend
            canvas = images.resize(square, out_width)
        else:
            paste(canvas, square, face.similarity, face.landmarks, scale)
    return canvas, photograph_record(image, canvas, records, model_size=size)


class PhotographRestorer:
    """Restore whole photographs in this process."""

    def __init__(
        self,
        restorer: FaceRestorer,
        *,
        detector: Detector | None = None,
        angle: IdentityAngle | None = None,
        upscale: Upscaler = lanczos,
        tools: str = "",
    ) -> None:
        """Take the networks; only aligned photographs need no detector.

        `tools` says which they are: a video does not go on with others after a kill.
        """
        self.restorer, self.detector, self.angle = restorer, detector, angle
        self.upscale, self.tools = upscale, tools

    def check(self, options: RestoreOptions, *, are_given: bool = False) -> None:
        """Raise ValueError if the options need what these networks cannot do.

        `are_given`: first restorations come with the photographs.
        """
        self.restorer.check(options.fidelity, are_given=are_given)
        if options.max_angle is not None and self.angle is None:
            raise ValueError("max_angle needs an identity network: give its file")

    def prepare(
        self, photograph: Photograph, options: RestoreOptions, intermediate: Image | None = None
    ) -> Prepared:
        """Find and cut the faces of one photograph. Raises: as the function `prepare`."""
        return prepare(
            photograph.pixels,
            self.detector,
            options,
            size=self.restorer.size,
            intermediate=intermediate,
        )

    def restore(self, photograph: Photograph, options: RestoreOptions) -> RestoredPhotograph:
        """Restore one photograph. Raises: ValueError, as `check` and `prepare`."""
        [restored] = self.restore_prepared(
            [(photograph, self.prepare(photograph, options))], options
        )
        return restored

    def restore_prepared(
        self, photographs: Sequence[tuple[Photograph, Prepared]], options: RestoreOptions
    ) -> list[RestoredPhotograph]:
        """Restore the faces of several photographs as one batch.

        All of them have first restorations, or none.

        Raises: ValueError, as `check`.
        """
        squares = [square for _, prepared in photographs for square in prepared.squares]
        firsts = [first for _, prepared in photographs for first in prepared.intermediates or ()]
        are_given = any(prepared.intermediates is not None for _, prepared in photographs)
        self.check(options, are_given=are_given)
        faces = self.restorer.restore(
            squares,
            fidelity=options.fidelity,
            color_fix=options.color_fix,
            intermediates=firsts if are_given else None,
            colorize=options.colorize,
        )
        angles: list[float] | None = None
        if self.angle is not None and squares:
            after = images.to_tensor([face.image for face in faces])
            angles = self.angle(after, images.to_tensor(squares)).tolist()
        done: list[RestoredPhotograph] = []
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
                problems=[face.problem for face in faces[own]],
                angles=None if angles is None else angles[own],
                upscale=self.upscale,
            )
            done.append(RestoredPhotograph(replace(photograph, pixels=canvas), record, faces[own]))
        return done


def output_size(width: int, height: int, scale: float) -> tuple[int, int]:
    """Return width and height of the result. Raises: ValueError if it has too many pixels."""
    wanted = round(width * scale), round(height * scale)
    if wanted[0] * wanted[1] > MAX_PIXELS:
        raise ValueError(
            f"scale = {scale:g} enlarges {width} x {height} to {wanted[0]} x {wanted[1]}, more "
            f"than {MAX_PIXELS:,} pixels: choose a smaller scale"
        )
    return wanted


def _with_results(
    faces: Sequence[FoundFace],
    restored: Sequence[Image],
    problems: Sequence[str | None] | None,
    angles: Sequence[float] | None,
) -> Iterator[tuple[FoundFace, Image | None, str | None, float | None]]:
    """Give each face its restored image, problem and angle; None for one that was not usable."""
    none = [None] * len(restored)
    results = iter(zip(restored, problems or none, angles or none, strict=True))
    for face in faces:
        yield face, *(next(results) if face.reason is None else (None, None, None))
