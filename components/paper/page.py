"""The tables as one HTML page that loads nothing."""

from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from components.paper import texts
from components.paper.cells import Cell, Filled
from components.paper.published import Column
from components.reporting import templates

_TEMPLATE = "page.html.j2"


def render(tables: Sequence[Filled], source: str, *, made_on: date) -> str:
    """Write the page."""
    environment = templates.environment(Path(__file__).parent)
    return environment.get_template(_TEMPLATE).render(
        source=source,
        made_on=made_on.isoformat(),
        tables=list(_all_shown(tables)),
        counts=counts(tables),
    )


def counts(tables: Sequence[Filled]) -> dict[str, int]:
    """Count the cells: all, those with a number from here, and those that may be compared."""
    cells = [cell for filled in tables for line in filled.lines for cell in line.cells]
    return {
        "cells": len(cells),
        "measured": sum(cell.here is not None for cell in cells),
        "comparable": sum(cell.difference is not None for cell in cells),
    }


def _all_shown(tables: Sequence[Filled]) -> Iterator[dict[str, Any]]:
    """Give what the template shows of each table; several may be parts of one."""
    before = None
    for place, filled in enumerate(tables):
        yield {**_shown(filled, place), "is_first": filled.table.number != before}
        before = filled.table.number


def _shown(filled: Filled, place: int) -> dict[str, Any]:
    notes = texts.Notes()
    columns = filled.table.columns
    lines = []
    for line in filled.lines:
        shared = texts.shared_notes(line)
        cells = [
            _cell(cell, column, notes) for cell, column in zip(line.cells, columns, strict=True)
        ]
        lines.append(
            {
                "title": line.title,
                "cells": cells,
                "is_empty": shared is not None,
                "has_paper": any(cell.paper is not None for cell in line.cells),
            }
        )
    return {
        "id": f"table-{filled.table.number}-{place}",
        "number": filled.table.number,
        "caption": filled.table.caption,
        "headings": texts.headings(filled),
        "lines": lines,
        "notes": notes.listed(),
        "counts": counts([filled]),
    }


def _cell(cell: Cell, column: Column, notes: texts.Notes) -> dict[str, Any]:
    here, difference = cell.here, cell.difference
    return {
        "paper": None if cell.paper is None else texts.number(cell.paper, column),
        "here": None if here is None else texts.number(here.value, column),
        "between": texts.between(cell, column),
        "difference": None if difference is None else texts.number(difference, column, signed=True),
        "verdict": _verdict(difference, column),
        "notes": [(note.short, notes.number(note)) for note in (*cell.notes, *cell.warnings)],
    }


def _verdict(difference: float | None, column: Column) -> str:
    """Return whether the number from here is better than the paper's, worse, or neither."""
    if not difference or not column.metric.better:
        return "open"
    return "better" if (difference > 0) == (column.metric.better == "higher") else "worse"
