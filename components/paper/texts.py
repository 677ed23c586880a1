"""The tables as Markdown, LaTeX and CSV; and the words that all of them share.

A method has two lines: the paper's numbers, and those from here. Beside a number from here stands
the difference to the paper's, or why the two are not comparable.
"""

import csv
import io
import re
from collections.abc import Iterator, Sequence

from components.paper.cells import Cell, Filled, Line, Note
from components.paper.published import Column

PAPER, HERE = "paper", "here"
ARROWS = {"higher": "↑", "lower": "↓", "": ""}
NOTHING = "–"
_SMALL = 10
_HOW_TO_READ = (
    "Each method has the paper's numbers and those from here, with their 95 % interval. In round "
    "brackets: the difference, here minus paper, or why the two are not comparable."
)
_LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "−": "$-$",
    "×": r"$\times$",
    "°": r"\textdegree{}",
    "²": r"\textsuperscript{2}",
    "–": "--",
    "…": r"\ldots{}",
}
_CSV = (
    *("table", "part", "method", "set", "metric", "paper", "here", "low", "high", "faces", "of"),
    *("difference", "comparable", "notes", "protocol", "model"),
)


class Notes:
    """The notes of one table, numbered as they come."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def number(self, note: Note) -> int:
        """Return the number under which a note stands below the table."""
        return self._numbers.setdefault(note.told, len(self._numbers) + 1)

    def listed(self) -> list[tuple[int, str]]:
        """Return all notes with their numbers."""
        return [(number, told) for told, number in self._numbers.items()]


def caption(filled: Filled) -> str:
    """Return a table's number and caption."""
    return f"Table {filled.table.number}. {filled.table.caption}"


def heading(column: Column, *, with_set: bool) -> str:
    """Return a column's title: set, metric, unit, and an arrow to what is better."""
    parts = [column.faces.title] if with_set and column.faces is not None else []
    unit = f"({column.metric.unit})" if column.metric.unit else ""
    parts += [column.metric.title, unit, ARROWS[column.metric.better]]
    return " ".join(filter(None, parts))


def headings(filled: Filled) -> list[str]:
    """Return the columns' titles; with the sets, if there are several."""
    columns = filled.table.columns
    several = len({column.faces for column in columns}) > 1
    return [heading(column, with_set=several) for column in columns]


def number(value: float | None, column: Column, *, signed: bool = False) -> str:
    """Write a number with as many digits as the paper's; a small one with at least two."""
    if value is None:
        return NOTHING
    digits = column.metric.digits
    if abs(value) < _SMALL and not float(value).is_integer():
        digits = max(digits, 2)
    text = f"{value:{'+' if signed else ''},.{digits}f}"
    return text.replace("-", "−")


def shared_notes(line: Line) -> tuple[Note, ...] | None:
    """Return why a whole line has no number from here, if all its cells have one reason."""
    notes = {cell.notes for cell in line.cells}
    if len(notes) == 1 and all(cell.here is None for cell in line.cells):
        return notes.pop()
    return None


def between(cell: Cell, column: Column) -> str:
    """Return the 95 % interval of a number from here; empty if it has none."""
    here = cell.here
    if here is None or here.low is None:
        return ""
    return f"[{number(here.low, column)}, {number(here.high, column)}]"


def beside(cell: Cell, column: Column) -> str:
    """Return what stands in brackets beside a number from here."""
    if cell.difference is not None:
        told = [number(cell.difference, column, signed=True)]
    else:
        told = [note.short for note in cell.notes]
    return ", ".join([*told, *(note.short for note in cell.warnings)])


def markdown(tables: Sequence[Filled], source: str) -> str:
    """Write the tables as Markdown."""
    parts = [f"# The paper's tables\n\n{source}. {_HOW_TO_READ}\n"]
    return "\n".join([*parts, *(_markdown_table(filled) for filled in tables)])


def _markdown_table(filled: Filled) -> str:
    notes = Notes()
    titles = ["method", "", *headings(filled)]
    lines = [
        f"## {caption(filled)}",
        "",
        _row(titles),
        _row([":--", ":--", *["--:"] * (len(titles) - 2)]),
    ]
    for line in filled.lines:
        for title, side, cells in _sides(filled, line):
            shown = [_markdown_cell(text, found, notes) for text, found in cells]
            lines.append(_row([_escaped(title), side, *shown]))
    lines += ["", *(f"{number}. {_escaped(told)}" for number, told in notes.listed())]
    return "\n".join(lines).rstrip() + "\n"


def _sides(
    filled: Filled, line: Line
) -> Iterator[tuple[str, str, list[tuple[str, tuple[Note, ...]]]]]:
    """Give a method's one or two lines: title, whose numbers, texts of cells with their notes."""
    columns = filled.table.columns
    title = line.title
    if any(cell.paper is not None for cell in line.cells):
        paper = [
            number(cell.paper, column) for cell, column in zip(line.cells, columns, strict=True)
        ]
        yield title, PAPER, [(text, ()) for text in paper]
        title = ""
    if (shared := shared_notes(line)) is not None:
        said = ", ".join(note.short for note in shared)
        rest: list[tuple[str, tuple[Note, ...]]] = [("", ())] * (len(columns) - 1)
        yield title, HERE, [(said, shared), *rest]
        return
    yield (
        title,
        HERE,
        [_here(cell, column) for cell, column in zip(line.cells, columns, strict=True)],
    )


def _here(cell: Cell, column: Column) -> tuple[str, tuple[Note, ...]]:
    notes = (*cell.notes, *cell.warnings)
    if cell.here is None:
        return ", ".join(note.short for note in notes), notes
    said = beside(cell, column)
    value = " ".join(filter(None, [number(cell.here.value, column), between(cell, column)]))
    return (f"{value} ({said})" if said else value), notes


def _markdown_cell(text: str, notes: Sequence[Note], numbers: Notes) -> str:
    marks = ",".join(str(numbers.number(note)) for note in notes)
    return _escaped(text) + (f" <sup>{marks}</sup>" if marks else "")


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escaped(text: str) -> str:
    """Escape what Markdown or HTML would read as markup."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_|])", r"\\\1", text)


def latex(tables: Sequence[Filled], source: str) -> str:
    """Write the tables as LaTeX, to be included in a paper; they need booktabs and graphicx."""
    head = [
        "% " + " ".join(f"{source}. {_HOW_TO_READ}".split()),
        "% Needs \\usepackage{booktabs} and \\usepackage{graphicx}.",
    ]
    return "\n".join([*head, *(_latex_table(filled) for filled in tables)]) + "\n"


def _latex_table(filled: Filled) -> str:
    notes, titles = Notes(), headings(filled)
    body = []
    for line in filled.lines:
        for title, side, cells in _sides(filled, line):
            shown = [_latex_cell(text, found, notes) for text, found in cells]
            body.append(f"{' & '.join([escaped(title), side, *shown])} \\\\")
    told = [f"\\textsuperscript{{{number}}}{escaped(note)}" for number, note in notes.listed()]
    # LaTeX writes a number of its own before a caption.
    about = f"{filled.table.caption} (the paper's Table {filled.table.number})"
    return "\n".join(
        [
            "\\begin{table}",
            "\\centering",
            f"\\caption{{{escaped(about)}}}",
            "\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%",
            f"\\begin{{tabular}}{{ll{'r' * len(titles)}}}",
            "\\toprule",
            f"{' & '.join(['Method', '', *map(escaped, titles)])} \\\\",
            "\\midrule",
            *body,
            "\\bottomrule",
            "\\end{tabular}}",
            *(["\\par\\footnotesize\\raggedright", " \\\\\n".join(told)] if told else []),
            "\\end{table}",
        ]
    )


def _latex_cell(text: str, notes: Sequence[Note], numbers: Notes) -> str:
    marks = ",".join(str(numbers.number(note)) for note in notes)
    return escaped(text) + (f"\\textsuperscript{{{marks}}}" if marks else "")


def escaped(text: str) -> str:
    """Escape a text for LaTeX."""
    return "".join(_LATEX.get(character, character) for character in text)


def as_csv(tables: Sequence[Filled]) -> str:
    """Write one row per cell, with every number in full."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_CSV)
    for filled in tables:
        for line in filled.lines:
            for cell, column in zip(line.cells, filled.table.columns, strict=True):
                writer.writerow(_csv_row(filled, line, cell, column))
    return out.getvalue()


def _csv_row(filled: Filled, line: Line, cell: Cell, column: Column) -> list[object]:
    here = cell.here
    return [
        filled.table.number,
        filled.table.caption,
        line.title,
        "" if column.faces is None else column.faces.name,
        column.name,
        cell.paper,
        *([None] * 5 if here is None else [here.value, here.low, here.high, here.faces, here.of]),
        cell.difference,
        "yes" if cell.is_comparable else "no",
        "; ".join(note.told for note in (*cell.notes, *cell.warnings)),
        *(["", ""] if here is None else [here.protocol, here.model]),
    ]
