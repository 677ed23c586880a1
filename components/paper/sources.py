"""What the paper's tables are made from: sets of faces and methods, as a user's file names them.

A method is a restorer, which restores every set, or has for each set a folder of its results or a
file that `hdrface evaluate --json` wrote.
"""

from collections.abc import Mapping
from pathlib import Path

from pydantic import Field, model_validator

from components.paper import published
from components.paper.published import PaperTable, Row, SetName
from components.params import Params, read


class Faces(Params):
    """Where a set lies: true faces, degraded faces, or both; folders or tables."""

    hq: Path | None = None
    lq: Path | None = None

    @model_validator(mode="after")
    def _has_degraded_faces(self) -> "Faces":
        if self.lq is None:
            raise ValueError("lq is missing: the set's own degraded faces are what is restored")
        return self


class Sources(Params):
    """The user's file. Without one, nothing is given."""

    sets: dict[SetName, Faces] = Field(default_factory=dict)
    methods: dict[str, str | dict[SetName, str]] = Field(default_factory=dict)
    ignore_endings: tuple[str, ...] = ()  # of names, as `hdrface evaluate --ignore-ending`
    identity_network: Path | None = None  # for Deg. by InsightFace
    batch_size: int = Field(default=8, ge=1)

    @classmethod
    def from_file(cls, file: Path | None) -> "Sources":
        """Read the file. Raises: ParamsError naming each bad key; OSError."""
        if file is None:
            return cls()
        return cls.parse("sources", {"sources": read(file)}, file)

    def place(self, method: str, name: SetName) -> str | None:
        """Return what is given of a method for a set: a restorer, a folder, a file; or None."""
        given = self._given(method)
        return given.get(name) if isinstance(given, Mapping) else given

    def restorer(self, method: str) -> str | None:
        """Return the restorer that a method is, if it is one."""
        given = self._given(method)
        return given if isinstance(given, str) else None

    def others(self, table: PaperTable) -> list[Row]:
        """Return the further methods that are rows of a table: those the paper has no number of.

        Variants of an ablation are rows of that ablation alone.
        """
        if not table.takes_others:
            return []
        there = {row.method.lower() for row in table.rows}
        variants = {
            row.method.lower()
            for one in published.tables()
            if not one.takes_others
            for row in one.rows
        } - {
            row.method.lower() for one in published.tables() if one.takes_others for row in one.rows
        }
        return [
            Row(title=name, method=name, values=(None,) * len(table.columns))
            for name in self.methods
            if name.lower() not in there | variants and self._concerns(name, table)
        ]

    def _concerns(self, method: str, table: PaperTable) -> bool:
        if table.is_cost:
            return self.restorer(method) is not None
        sets = {column.faces.name for column in table.columns if column.faces is not None}
        return any(self.place(method, name) is not None for name in sets)

    def _given(self, method: str) -> str | dict[SetName, str] | None:
        names = {name.lower(): given for name, given in self.methods.items()}
        return names.get(method.lower())
