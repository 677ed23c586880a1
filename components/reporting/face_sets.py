"""Sets of faces that are scored: folders of pictures, or tables, and how their names are matched.

The result of the face `people/anna.jpg` is `people/anna.png`, or any other kind of picture with
this name; endings that sets differ in (`_LR`, `_HR`) are left out before names are compared. In a
table, a row's name is its `face_id`; a variant above 0 is a part of it: `anna.1`.
"""

import copy
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Protocol, Self

from components import images, lineage
from components.faces.source import Picture, UnreadableError, open_shared, open_source, share
from components.images import Image, ImageError
from components.storage import Storage
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

    def __contains__(self, name: object) -> bool: ...

    def read(self, name: str) -> Image:
        """Read a picture as it is. Raises: KeyError if there is none, ImageError if it is none."""
        ...

    def shared(self, root: Storage | None) -> Self:
        """Return the set for workers, which read it in this data root, or where it lies."""
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
        self._source = open_shared(str(place))
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

    def __contains__(self, name: object) -> bool:
        return name in self._pictures

    def shared(self, root: Storage | None) -> Self:
        found = copy.copy(self)
        found._source = open_shared(share(str(self.place), list(self._pictures.values()), root))
        return found

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

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def shared(self, root: Storage | None) -> Self:
        if root is None:
            return self
        found = copy.copy(self)
        found.table = self.table.shared()
        return found

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
