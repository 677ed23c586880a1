"""The cells of the tables: the paper's number, the one from here, and whether they may be compared.

The difference, here minus paper, is given only where both were measured in the same way: the same
set with all of its faces, degraded as published, in 512 x 512 pixels, by the same protocol.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from components.metrics.catalogue import CATALOGUE, missing_files, told_missing
from components.metrics.protocol import told
from components.paper.cost import Cost
from components.paper.published import SIZE, Column, PaperTable, Row
from components.paper.scores import Content, Found, Missing, Scores
from components.paper.sources import Sources

_ROLE = "restored"


@dataclass(frozen=True)
class Note:
    """What stands in a cell beside a number or in its place, and the sentence below the table."""

    short: str
    told: str


@dataclass(frozen=True)
class Number:
    """What was measured here: a value with its interval, over `faces` of `of` faces.

    `model` is the name and the fingerprint of what was measured.
    """

    value: float
    low: float | None = None
    high: float | None = None
    faces: int | None = None
    of: int | None = None
    protocol: str = ""
    model: str = ""


@dataclass(frozen=True)
class Cell:
    """One method in one column.

    `notes` say why there is no number from here, or, beside a number, why it is not comparable.
    A warning concerns the number alone.
    """

    paper: float | None
    here: Number | None
    notes: tuple[Note, ...] = ()
    warnings: tuple[Note, ...] = ()

    @property
    def is_comparable(self) -> bool:
        """Return whether the two numbers were measured in the same way."""
        return self.here is not None and not self.notes

    @property
    def difference(self) -> float | None:
        """Return the number from here minus the paper's, if they may be compared."""
        if self.here is None or self.paper is None or not self.is_comparable:
            return None
        return self.here.value - self.paper


@dataclass(frozen=True)
class Line:
    """A method's cells, in the order of the columns."""

    title: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Filled:
    """A table of the paper with what was measured here."""

    table: PaperTable
    lines: tuple[Line, ...]


def fill(
    table: PaperTable,
    sources: Sources,
    scores: Scores,
    cost_of: Callable[[Row], Cost | Missing],
) -> Filled:
    """Fill a table: find every method's scores, or its cost, and compare them with the paper's."""
    rows = [*table.rows, *sources.others(table)]
    if table.is_cost:
        return Filled(table, tuple(_cost_line(table, row, cost_of(row)) for row in rows))
    lines = [_line(table, row, scores) for row in rows]
    return Filled(table, tuple(_alike(lines)))


def _line(table: PaperTable, row: Row, scores: Scores) -> Line:
    found = {
        column.faces.name: scores.find(row, column.faces.name)
        for column in table.columns
        if column.faces is not None
    }
    cells = [
        score_cell(column, paper, found[column.faces.name])
        for column, paper in zip(table.columns, row.values, strict=True)
        if column.faces is not None
    ]
    return Line(row.title, tuple(cells))


def score_cell(column: Column, paper: float | None, found: Found | Missing) -> Cell:
    """Compare one number of a metrics file with the paper's."""
    if isinstance(found, Missing):
        return Cell(paper, None, (Note(found.short, found.told),))
    metrics: Mapping[str, Any] = found.content["metrics"]
    first = column.metric.entries[0]
    name = next((name for name in column.metric.entries if name in metrics), None)
    if name is None or _ROLE not in metrics[name]:
        return Cell(paper, None, (_unmeasured(first, found.content),))
    measured = metrics[name]
    scored = measured[_ROLE]
    number = Number(
        scored["mean"],
        scored["low"],
        scored["high"],
        scored["n"],
        scored.get("of", scored["n"]),
        told(measured["protocol"]),
        _model(found.content),
    )
    notes = [*_other_protocol(name, first, measured), *_other_faces(column, number, found)]
    warnings: tuple[Note, ...] = ()
    if warning := scored.get("warning"):
        warnings = (Note("few faces", f"{column.metric.title}: {warning}"),)
    return Cell(paper, number, tuple(notes), warnings)


def _model(content: Content) -> str:
    model = content.get("model", {})
    return f"{model.get('name', '')} {model.get('fingerprint', '')}".strip()


def _unmeasured(name: str, content: Content) -> Note:
    """Say why a metric has no number. Weights come first: asking for it would not help."""
    if missing := missing_files(name):
        return Note("no weights", f"{name}: {told_missing(missing)}")
    if why := content["unavailable"].get(name):
        return Note("not measured", f"{name}: {why}")
    return Note(
        "not asked for",
        f"{name} was not asked for: add it to evaluate.metrics, or to --metrics of 'hdrface "
        "evaluate'",
    )


def _other_protocol(name: str, first: str, measured: Mapping[str, Any]) -> Iterator[Note]:
    if name != first:
        entry = CATALOGUE[first]
        yield Note(
            f"by {CATALOGUE[name].protocol.name}",
            f"{entry.title} by {told(measured['protocol'])}; the paper's protocol is "
            f"{entry.protocol.name}",
        )


def _other_faces(column: Column, number: Number, found: Found) -> Iterator[Note]:
    assert column.faces is not None
    protocol = found.content["protocol"]
    if found.faces != column.faces.name:
        yield Note(
            "other faces",
            f"{protocol['faces']}, {number.of} faces, not {column.faces.title}",
        )
    elif number.of != column.faces.faces:
        yield Note(
            f"{number.of:,} faces",
            f"{number.of:,} of {column.faces.title}'s {column.faces.faces:,}",
        )
    if number.faces != number.of:
        yield Note(
            f"{number.faces:,} of {number.of:,}",
            f"only {number.faces:,} of {number.of:,} faces have a score of {column.metric.title}",
        )
    if found.faces == column.faces.name and "degradation" in protocol:
        yield Note("degraded here", "the faces were degraded here, not by the set's authors")
    if protocol.get("size") != SIZE:
        sizes = protocol.get("size") or " and ".join(map(str, protocol.get("sizes", ["unknown"])))
        yield Note(f"{sizes} pixels", f"faces of {sizes} pixels, not {SIZE}")


def _alike(lines: Sequence[Line]) -> Iterator[Line]:
    """Give the lines, with a note at numbers of another protocol than the first of their column.

    The same metric by another version of a library is another protocol.
    """
    first: dict[int, str] = {}
    for line in lines:
        cells = list(line.cells)
        for place, cell in enumerate(cells):
            if cell.here is None:
                continue
            known = first.setdefault(place, cell.here.protocol)
            if known != cell.here.protocol:
                note = Note(
                    "not as above", f"measured by {cell.here.protocol}; further up by {known}"
                )
                cells[place] = replace(cell, notes=(*cell.notes, note))
        yield Line(line.title, tuple(cells))


def _cost_line(table: PaperTable, row: Row, cost: Cost | Missing) -> Line:
    cells = [
        cost_cell(column, paper, cost)
        for column, paper in zip(table.columns, row.values, strict=True)
    ]
    return Line(row.title, tuple(cells))


def cost_cell(column: Column, paper: float | None, cost: Cost | Missing) -> Cell:
    """Compare one number of a method's cost with the paper's."""
    if isinstance(cost, Missing):
        return Cell(paper, None, (Note(cost.short, cost.told),))
    if (value := cost.value(column.name)) is None:
        return Cell(paper, None, (Note("not counted", cost.why),))
    notes = []
    if column.name == "seconds":
        notes.append(
            Note("other machine", f"seconds on {cost.machine}; the paper does not name its machine")
        )
    if cost.size != SIZE and column.name != "steps":
        notes.append(Note(f"{cost.size} pixels", f"faces of {cost.size} pixels, not {SIZE}"))
    return Cell(paper, Number(value, protocol=cost.told), tuple(notes))
