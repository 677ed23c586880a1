"""Markdown, LaTeX, CSV and HTML say the same, and no name breaks them."""

import csv
import io
import re
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from components.paper import page, published, texts, writing
from components.paper.cells import Cell, Filled, Line, Note, Number
from components.paper.published import PaperTable
from tests.browser import browser

__all__ = ["browser"]

NASTY = r"50 % & <b>_x_</b> | $\x {#1}~^"
OTHER = Note("other faces", "32 faces of data_pairs & more, not CelebA-Test")
WHY = Note("not given", "name it under methods")


def table() -> PaperTable:
    """Return Table 2: Q-Align, LIQE, Deg., FID."""
    (found,) = published.chosen("2")
    return found


@pytest.fixture
def filled() -> Filled:
    compared = Cell(30.12, Number(29.5, 29.0, 30.0, 3000, 3000, "vqfr"))
    warned = Cell(40.65, Number(41.0), warnings=(Note("few faces", "FID: 180 pictures"),))
    apart = Cell(4.544, Number(4.4, 4.3, 4.5, 32, 32), (OTHER,))
    absent = Cell(4.882, None, (Note("no weights", "liqe: weights are missing"),))
    nothing = tuple(Cell(value, None, (WHY,)) for value in (4.452, 4.823, 35.71, 46.34))
    mine = tuple(Cell(None, Number(1234.5)) for _ in range(4))
    return Filled(
        table(),
        (
            Line("OSDFace", nothing),
            Line("HDRFace (SD 2.1)", (apart, absent, compared, warned)),
            Line(NASTY, mine),
        ),
    )


def test_markdown_has_the_papers_line_above_ours(filled: Filled) -> None:
    lines = texts.markdown([filled], "HDRFace (2026)").splitlines()
    start = lines.index("## Table 2. HDRFace and its baselines on CelebA-Test") + 2
    assert lines[start] == "| method |  | Q-Align ↑ | LIQE ↑ | Deg. (°) ↓ | FID ↓ |"
    assert lines[start + 2 : start + 6] == [
        "| OSDFace | paper | 4.452 | 4.823 | 35.71 | 46.34 |",
        "|  | here | not given <sup>1</sup> |  |  |  |",
        "| HDRFace (SD 2.1) | paper | 4.544 | 4.882 | 30.12 | 40.65 |",
        "|  | here | 4.400 [4.300, 4.500] (other faces) <sup>2</sup> | no weights <sup>3</sup> "
        "| 29.50 [29.00, 30.00] (−0.62) | 41.00 (+0.35, few faces) <sup>4</sup> |",
    ]
    # Not in the paper: one line.
    assert lines[start + 6].endswith("| here | 1,234.500 | 1,234.500 | 1,234.50 | 1,234.50 |")
    assert "2. 32 faces of data\\_pairs &amp; more, not CelebA-Test" in lines


@pytest.mark.parametrize(
    ("value", "signed", "text"),
    [
        (18224.4, False, "18,224"),
        (1.134, False, "1.13"),
        (2.0, False, "2"),
        (-0.5, True, "−0.50"),
        (None, False, "–"),
    ],
)
def test_small_numbers_keep_two_digits(value: float | None, signed: bool, text: str) -> None:
    (cost,) = published.chosen("6")
    assert texts.number(value, cost.columns[3], signed=signed) == text


def test_markdown_rows_have_as_many_cells_whatever_the_name(filled: Filled) -> None:
    rows = [line for line in texts.markdown([filled], "").splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {7}
    assert "<b>" not in "\n".join(rows)


def test_latex_escapes_names_and_notes(filled: Filled) -> None:
    text = texts.latex([filled], "HDRFace (2026)")
    assert (
        r"50 \% \& \textless{}b\textgreater{}\_x\_\textless{}/b\textgreater{} | "
        r"\$\textbackslash{}x \{\#1\}\textasciitilde{}\textasciicircum{} & here & 1,234.500" in text
    )
    assert r"29.50 [29.00, 30.00] ($-$0.62)" in text
    assert r"not given\textsuperscript{1}" in text
    assert r"\textsuperscript{2}32 faces of data\_pairs \& more" in text
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    rows = [line for line in text.splitlines() if line.endswith(r"\\") and " & " in line]
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {5}
    # Everything that is no ASCII is a command that LaTeX knows.
    assert text.isascii()


def test_a_latex_caption_leaves_its_number_to_latex(filled: Filled) -> None:
    captions = re.findall(r"\\caption\{(.*)\}", texts.latex([filled], ""))
    assert captions == ["HDRFace and its baselines on CelebA-Test (the paper's Table 2)"]


def test_every_table_of_the_paper_is_plain_latex() -> None:
    empty = [
        Filled(
            one,
            tuple(Line(row.title, tuple(Cell(v, None) for v in row.values)) for row in one.rows),
        )
        for one in published.tables()
    ]
    assert texts.latex(empty, published.source()).isascii()


def test_csv_has_a_row_per_cell_with_all_digits_and_reasons(filled: Filled) -> None:
    rows = list(csv.DictReader(io.StringIO(texts.as_csv([filled]))))
    assert len(rows) == 12
    degrees = rows[6]
    assert (degrees["method"], degrees["metric"]) == ("HDRFace (SD 2.1)", "deg")
    assert (degrees["paper"], degrees["here"], degrees["faces"]) == ("30.12", "29.5", "3000")
    assert float(degrees["difference"]) == pytest.approx(29.5 - 30.12)
    assert [row["comparable"] for row in rows[4:8]] == ["no", "no", "yes", "yes"]
    assert (rows[4]["difference"], rows[4]["notes"]) == ("", OTHER.told)
    assert rows[8]["method"] == NASTY


def test_the_page_escapes_names_and_loads_nothing(filled: Filled) -> None:
    html = page.render([filled], "HDRFace (2026)", made_on=date(2026, 1, 2))
    assert "50 % &amp; &lt;b&gt;_x_&lt;/b&gt;" in html
    assert "<b>_x_" not in html
    assert not re.search(r"<(script|link(?! rel=\"icon\")|img|iframe)|https?://|url\(", html)
    assert "Of 12 cells, 7 have a number from here, and 2 of these" in html


def test_the_page_colours_a_difference_by_what_is_better(filled: Filled) -> None:
    html = page.render([filled], "", made_on=date(2026, 1, 2))
    assert re.findall(r'class="difference (\w+)">([^<]+)<', html) == [
        ("better", "−0.62"),  # a smaller angle
        ("worse", "+0.35"),
    ]


def test_all_formats_are_written_and_the_summary_names_reasons_once(
    filled: Filled, tmp_path: Path
) -> None:
    written = writing.write([filled], tmp_path)
    assert [file.name for file in written] == ["paper.html", "paper.md", "paper.csv", "paper.tex"]
    assert all(file.read_text(encoding="utf-8") for file in written)
    told = writing.told([filled])
    assert told[0].endswith("7 of 12 cells measured here, 2 comparable")
    assert told.count(f"  {WHY.told}") == 1


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1200])
def test_the_page_fits_a_phone_and_its_notes_can_be_reached(
    filled: Filled, tmp_path: Path, browser: Any, scheme: str, width: int
) -> None:
    file = tmp_path / "paper.html"
    file.write_text(page.render([filled], "HDRFace (2026)", made_on=date(2026, 1, 2)))
    view = browser.new_page(viewport={"width": width, "height": 700}, color_scheme=scheme)
    problems: list[str] = []
    view.on("console", lambda message: problems.append(message.text))
    view.goto(file.as_uri())
    assert view.evaluate("document.documentElement.scrollWidth") <= width
    view.click("tbody sup a >> nth=0")
    assert view.evaluate("document.querySelector(':target').textContent") == WHY.told
    ink, paper = view.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    )
    brightness = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (ink, paper)]
    assert (brightness[0] > brightness[1]) == (scheme == "dark")
    assert problems == []
    view.close()
