"""Faces that any other program has restored: a folder of pictures, matched by name.

The result of the face `people/anna.jpg` is `people/anna.png`, or any other kind of picture with
this stem. Of its variant 1 it is `people/anna.1.png`, of the second face of a picture
`people/anna#2.png`. Where two pictures have one stem, the old suffix tells them apart:
`people/anna.jpg.png`. These are the names that `hdrface degrade` gives.

B batch, H and W of the face.
"""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import ClassVar

import torch
from torch import Tensor

from components import images
from components.backbones.color_fix import ColorFix
from components.faces.source import READABLE
from components.images import Image, ImageError
from components.restorers.protocol import Intermediates, Restoration
from components.weights.precision import InferencePrecision

SHOWN = 10  # names in a message


class PicturesByName:
    """The pictures of a folder, and of what is below it, by their relative name without suffix."""

    def __init__(self, folder: Path) -> None:
        """List a folder.

        Raises: FileNotFoundError; ValueError if it holds no pictures, or two of one name.
        """
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} is missing: name a folder of pictures")
        self.folder = folder
        self.files: dict[str, Path] = {}
        for file in sorted(folder.rglob("*")):
            if file.suffix.lower() in READABLE and file.is_file():
                stem = file.relative_to(folder).with_suffix("").as_posix()
                if stem in self.files:
                    raise ValueError(
                        f"{self.files[stem]} and {file} are results of one picture: remove one"
                    )
                self.files[stem] = file
        if not self.files:
            raise ValueError(f"{folder} holds no pictures ({', '.join(READABLE)})")

    def names_hash(self) -> str:
        """Return a hash of which pictures there are, not of what is in each."""
        named = "\n".join(f"{stem} {file.stat().st_size}" for stem, file in self.files.items())
        return hashlib.sha256(named.encode()).hexdigest()

    def read(self, stem: str) -> Image:
        """Read a picture. Raises: ValueError naming it if it is missing or cannot be decoded."""
        if stem not in self.files:
            raise ValueError(f"{self.folder} holds no picture named {stem}")
        try:
            return images.decode(self.files[stem].read_bytes())
        except ImageError as error:
            raise ValueError(f"{self.files[stem]} cannot be used: {error}") from error


class FolderRestorer:
    """Look results up by the face's id and variant, or take those that come with the faces."""

    precision: ClassVar[InferencePrecision] = "float32"
    is_preview: ClassVar[bool] = False
    color_fix: ClassVar[ColorFix] = "none"
    fidelity: ClassVar[float | None] = None
    intermediates: ClassVar[Intermediates] = "given"
    licence: ClassVar[str] = "of the program that restored the pictures"

    def __init__(
        self, folder: Path, *, device: torch.device, fingerprint: str | None = None
    ) -> None:
        """List a folder, with what is below it.

        Raises: FileNotFoundError; ValueError if it holds no pictures of square faces, or two of one
        name.
        """
        self._pictures, self.device = PicturesByName(folder), device
        self.size = self._read(next(iter(self._pictures.files))).shape[0]
        self.name = folder.name
        self.fingerprint = fingerprint or self._pictures.names_hash()

    def missing(self, faces: Iterable[tuple[str, int]]) -> list[str]:
        """List the faces, (id, variant), that have no result."""
        return [
            face_id if variant == 0 else f"{face_id}, variant {variant}"
            for face_id, variant in faces
            if self._find(face_id, variant) is None
        ]

    def require(self, faces: Sequence[tuple[str, int]]) -> None:
        """Raise ValueError with the names if faces have no result."""
        if lacking := self.missing(faces):
            more = f" and {len(lacking) - SHOWN} more" if len(lacking) > SHOWN else ""
            raise ValueError(
                f"{self._pictures.folder} lacks results of {len(lacking)} of {len(faces)} faces: "
                f"{', '.join(lacking[:SHOWN])}{more}: restore them too; the result of a/b.jpg is "
                "a/b.png, of its variant 1 a/b.1.png"
            )

    def restore(
        self,
        lq_B3HW: Tensor,
        face_ids: Sequence[str],
        variants: Sequence[int],
        *,
        fidelity: float | None = None,
        intermediate_B3HW: Tensor | None = None,
    ) -> Restoration:
        """Return the results of aligned faces, RGB in [0, 1].

        Raises: ValueError if one is missing, is no picture, or has another size than the face.
        """
        del fidelity
        if intermediate_B3HW is not None:
            return Restoration(intermediate_B3HW)
        faces = list(zip(face_ids, variants, strict=True))
        self.require(faces)
        pictures = [self._read(stem) for face in faces if (stem := self._find(*face)) is not None]
        for (face_id, _), picture in zip(faces, pictures, strict=True):
            if picture.shape[:2] != lq_B3HW.shape[2:]:
                raise ValueError(
                    f"the result of {face_id} in {self._pictures.folder} is {picture.shape[0]} "
                    f"pixels wide, the face {lq_B3HW.shape[2]}: resize the results"
                )
        return Restoration(images.to_tensor(pictures, lq_B3HW.device))

    def _find(self, face_id: str, variant: int) -> str | None:
        """Return the name without suffix of a face's result, if there is one."""
        name, _, number = face_id.partition("#")
        rest = (f"#{number}" if number else "") + (f".{variant}" if variant else "")
        stem = PurePosixPath(name).with_suffix("")
        names = (f"{name}{rest}", f"{stem}{rest}")
        return next((one for one in names if one in self._pictures.files), None)

    def _read(self, stem: str) -> Image:
        picture = self._pictures.read(stem)
        if picture.shape[0] != picture.shape[1]:
            raise ValueError(
                f"{self._pictures.files[stem]} is {picture.shape[1]} x {picture.shape[0]}: results "
                "must be aligned, square faces; whole photographs are given with --intermediate"
            )
        return picture
