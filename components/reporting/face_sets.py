"""Sets of faces that are scored: folders of pictures, or tables, and how their names are matched.

The result of the face `people/anna.jpg` is `people/anna.png`, or any other kind of picture with
this name; endings that sets differ in (`_LR`, `_HR`) are left out before names are compared. In a
table, a row's name is its `face_id`; a variant above 0 is a part of it: `anna.1`.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Protocol, Self

from components import images, lineage
from components.faces import landmarks
from components.faces.cutter import Face, FaceCutter
from components.faces.detect import Detector
from components.faces.source import Picture, UnreadableError, open_source
from components.images import Image, ImageError
from components.tables import Table
from components.tables.table import MANIFEST

Rejection = tuple[str, str]  # the picture's name, the reason


class FaceSet(Protocol):
    """Pictures by name."""

    fingerprint: str

    def names(self) -> list[str]:
        """List the names in order."""
        ...

    def face(self, name: str) -> tuple[str, int]:
        """Return the face's id and which of its variants it is."""
        ...

    def read(self, name: str) -> Image:
        """Read a picture as it is. Raises: KeyError if there is none, ImageError if it is none."""
        ...


def open_set(place: Path, *, column: str, endings: Sequence[str] = ()) -> "FaceSet":
    """Open a folder of pictures, or the column of a table.

    Raises: SourceError or ValueError if there is no such thing, or two pictures have one name.
    """
    if is_table(place):
        return TableSet(Table.open(place), column)
    return FolderSet.open(place, endings)


def is_table(place: Path) -> bool:
    """Return whether a place holds a table, not a folder of pictures."""
    return (place / MANIFEST).is_file()


class FolderSet:
    """A folder of pictures, with what is below it."""

    def __init__(self, place: Path, pictures: dict[str, Picture]) -> None:
        self.place, self._pictures = place, pictures
        self._source = open_source(str(place))
        contents = {name: picture.digest for name, picture in pictures.items()}
        self.fingerprint = lineage.fingerprint(pictures=contents)

    @classmethod
    def open(cls, place: Path, endings: Sequence[str]) -> Self:
        """List a folder. Raises: as `open_set`."""
        pictures: dict[str, Picture] = {}
        for picture in open_source(str(place)).pictures():
            name = plain_name(picture.name, endings)
            if name in pictures:
                raise ValueError(
                    f"{place}: {pictures[name].name} and {picture.name} are both named {name}: "
                    "remove one"
                )
            pictures[name] = picture
        return cls(place, pictures)

    def names(self) -> list[str]:
        return list(self._pictures)

    def face(self, name: str) -> tuple[str, int]:
        return self._pictures[name].name, 0

    def read(self, name: str) -> Image:
        try:
            return images.decode(self._source.read(self._pictures[name]))
        except UnreadableError as error:
            raise ImageError(str(error)) from error


class TableSet:
    """A column of PNGs of a table. Rows are read by shard, so read them in order."""

    def __init__(self, table: Table, column: str) -> None:
        there = [one["name"] for one in table.columns]
        if column not in there:
            raise ValueError(
                f"{table.path} has no column {column}, but {', '.join(there)}: name a "
                "table of faces or pairs"
            )
        self.table, self.column, self.fingerprint = table, column, table.fingerprint
        keys = [key for key in ("face_id", "variant") if key in there]
        self._places: dict[str, tuple[int, int]] = {}
        self._faces: dict[str, tuple[str, int]] = {}
        for shard in range(len(table.shards)):
            for row, values in enumerate(table.read_shard(shard, keys).to_pylist()):
                face = values["face_id"], values.get("variant", 0)
                name = row_name(*face)
                self._places[name], self._faces[name] = (shard, row), face
        self._at: tuple[int, list[bytes]] = (-1, [])

    def names(self) -> list[str]:
        return list(self._places)

    def face(self, name: str) -> tuple[str, int]:
        return self._faces[name]

    def read(self, name: str) -> Image:
        shard, row = self._places[name]
        if self._at[0] != shard:
            pngs = self.table.read_shard(shard, [self.column])[self.column].to_pylist()
            self._at = (shard, pngs)
        return images.decode_png(self._at[1][row])


def plain_name(name: str, endings: Sequence[str] = ()) -> str:
    """Return a picture's name without its suffix, and without an ending that is left out."""
    stem = PurePosixPath(name).with_suffix("").as_posix()
    return next((stem.removesuffix(one) for one in endings if stem.endswith(one)), stem)


def row_name(face_id: str, variant: int, endings: Sequence[str] = ()) -> str:
    """Return the name by which a face of a table, or one cut out of a picture, is matched."""
    name, _, number = face_id.partition("#")
    rest = (f"#{number}" if number else "") + (f".{variant}" if variant else "")
    return plain_name(name, endings) + rest


def cut_faces(
    place: Path, size: int, rejected: list[Rejection], detector: Detector | None = None
) -> Iterator[Face]:
    """Cut the faces of every picture of a folder; what cannot be used goes to `rejected`.

    Square pictures count as FFHQ-aligned faces, unless there is a detector; those in the folder's
    `landmarks.csv` are aligned first.
    """
    source = open_source(str(place))
    given = landmarks.parse(source.text(landmarks.FILE) or ",".join(landmarks.COLUMNS))
    # An aligned square is twice as wide as its face; an enlarged picture would not be the truth.
    whole, photograph = (
        FaceCutter(size=size, min_face=size // 2, aligned=aligned, detector=detector)
        for aligned in (True, False)
    )
    for picture in source.pictures():
        points = given.get(picture.name, ())
        try:
            data = source.read(picture)
        except UnreadableError as error:
            rejected.append((picture.name, str(error)))
            continue
        cutter = photograph if points or detector is not None else whole
        cut = cutter.cut(picture.name, data, points)
        rejected += [(picture.name, reason) for reason in cut.reasons]
        yield from cut.faces
