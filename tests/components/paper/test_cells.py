"""A number is compared with the paper's only if both were measured in the same way."""

from typing import Any

import pytest

from components.metrics.catalogue import how_of
from components.paper import published
from components.paper.cells import Cell, Line, Note, Number, _alike, cost_cell, score_cell
from components.paper.cost import Cost
from components.paper.published import METRICS, Column, PublishedSet, SetName
from components.paper.scores import Found, Missing

CELEBA = PublishedSet("celeba-test", "CelebA-Test", 3000)


def column(metric: str) -> Column:
    return Column(metric, METRICS[metric], CELEBA)


def found(
    metric: str = "psnr",
    *,
    faces: SetName | None = "celeba-test",
    n: int = 3000,
    of: int = 3000,
    protocol: dict[str, Any] | None = None,
    **scored: Any,
) -> Found:
    restored = {"mean": 23.5, "low": 23.4, "high": 23.6, "n": n, "of": of, **scored}
    measured = {"protocol": how_of(metric).protocol, "restored": restored}
    how = {"faces": "CelebA-Test/HQ", "size": 512, **(protocol or {})}
    content = {
        "model": {"name": "sd21-sdfm", "fingerprint": "ab12"},
        "protocol": how,
        "metrics": {metric: measured},
        "unavailable": {},
    }
    return Found(content, faces)


def test_the_difference_is_here_minus_paper() -> None:
    cell = score_cell(column("psnr"), 23.62, found())
    assert cell.is_comparable
    assert cell.difference == pytest.approx(-0.12)
    assert cell.here is not None
    assert (cell.here.low, cell.here.high, cell.here.faces) == (23.4, 23.6, 3000)
    assert cell.here.model == "sd21-sdfm ab12"


@pytest.mark.parametrize(
    ("scores", "shorts", "told"),
    [
        (
            found(faces=None, n=32, of=32, protocol={"faces": "the test split of data/pairs"}),
            ["other faces"],
            "the test split of data/pairs, 32 faces, not CelebA-Test",
        ),
        (found(n=180, of=180), ["180 faces"], "180 of CelebA-Test's 3,000"),
        (found(n=2999), ["2,999 of 3,000"], "only 2,999 of 3,000 faces have a score of PSNR"),
        (found(protocol={"size": 64}), ["64 pixels"], "faces of 64 pixels, not 512"),
        (
            found(protocol={"degradation": {}}),
            ["degraded here"],
            "the faces were degraded here, not by the set's authors",
        ),
    ],
    ids=["other faces", "fewer faces", "coverage", "size", "degradation"],
)
def test_a_number_of_other_faces_is_not_compared_and_says_why(
    scores: Found, shorts: list[str], told: str
) -> None:
    cell = score_cell(column("psnr"), 23.62, scores)
    assert cell.here is not None
    assert cell.difference is None
    assert [note.short for note in cell.notes] == shorts
    assert cell.notes[0].told == told


def test_faces_of_several_sizes_or_of_an_unknown_one_are_not_compared() -> None:
    scores = found(protocol={"size": None, "sizes": [256, 512]})
    assert score_cell(column("psnr"), 23.62, scores).notes[0].short == "256 and 512 pixels"
    scores = found(protocol={"size": None})
    assert score_cell(column("psnr"), 23.62, scores).notes[0].short == "unknown pixels"


@pytest.mark.parametrize(
    ("metric", "measured", "protocol"),
    [
        ("deg", "identity_angle", "insightface"),
        ("lmd", "lmd_pfld", "pfld"),
        ("fid", "fid_clean", "clean"),
    ],
)
def test_the_same_metric_by_another_protocol_is_shown_and_not_compared(
    metric: str, measured: str, protocol: str
) -> None:
    cell = score_cell(column(metric), 30.12, found(measured))
    assert cell.here is not None
    assert cell.difference is None
    assert [note.short for note in cell.notes] == [f"by {protocol}"]
    assert cell.notes[0].told.endswith(f"the paper's protocol is {PAPERS[metric]}")


PAPERS = {"deg": "vqfr", "lmd": "awing", "fid": "vqfr"}


@pytest.mark.parametrize("metric", sorted(PAPERS))
def test_the_papers_protocol_comes_first(metric: str) -> None:
    first = METRICS[metric].entries[0]
    assert how_of(first).protocol["name"] == PAPERS[metric]
    scores = found(first)
    other = found(METRICS[metric].entries[1]).content["metrics"]
    both = {**scores.content, "metrics": {**other, **scores.content["metrics"]}}
    assert score_cell(column(metric), 30.12, Found(both, "celeba-test")).is_comparable


def test_a_warning_stands_beside_a_number_that_may_be_compared() -> None:
    cell = score_cell(column("fid"), 40.66, found("fid_vqfr", warning="180 pictures: under 2,048"))
    assert cell.difference is not None
    assert cell.warnings == (Note("few faces", "FID: 180 pictures: under 2,048"),)


def test_a_metric_without_its_weights_names_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cell = score_cell(column("deg"), 30.12, found("psnr"))
    assert cell.here is None
    assert cell.notes[0].short == "no weights"
    assert "hdrface/resnet18_110.pth (97 MB" in cell.notes[0].told


def test_a_metric_that_was_not_asked_for_says_so() -> None:
    cell = score_cell(column("ssim"), 0.6782, found("psnr"))
    assert cell.notes[0].short == "not asked for"
    content = {**found("psnr").content, "unavailable": {"ssim": "no face has a score"}}
    cell = score_cell(column("ssim"), 0.6782, Found(content, "celeba-test"))
    assert cell.notes == (Note("not measured", "ssim: no face has a score"),)


def test_a_method_without_scores_says_why() -> None:
    cell = score_cell(column("psnr"), 23.62, Missing("not trained", "train it"))
    assert (cell.here, cell.notes) == (None, (Note("not trained", "train it"),))
    assert not cell.is_comparable


def test_a_number_by_another_version_than_further_up_is_marked() -> None:
    def line(protocol: str | None) -> Line:
        here = None if protocol is None else Number(1.0, protocol=protocol)
        return Line("", (Cell(1.0, here),))

    lines = list(_alike([line(None), line("pyiqa 1"), line("pyiqa 1"), line("pyiqa 2")]))
    assert [len(one.cells[0].notes) for one in lines] == [0, 0, 0, 1]
    assert lines[3].cells[0].notes[0].told == "measured by pyiqa 2; further up by pyiqa 1"


def cost(size: int, **numbers: Any) -> Cost:
    counted: dict[str, Any] = {"parameters_m": 31413.0, "macs_g": 18000.0, **numbers}
    return Cost(steps=1, seconds=0.5, size=size, machine="a GPU", rounds=5, **counted)


def test_seconds_are_never_compared_and_counts_are_at_the_papers_size() -> None:
    (table,) = published.chosen("6")
    values = table.rows[-1].values
    cells = [
        cost_cell(one, paper, cost(512)) for one, paper in zip(table.columns, values, strict=True)
    ]
    assert [cell.difference for cell in cells] == [0, None, 0, pytest.approx(18000 - 18224)]
    assert cells[1].notes[0].told == "seconds on a GPU; the paper does not name its machine"
    for column, paper in ((table.columns[2], 31413), (table.columns[3], 18224)):
        small = cost_cell(column, paper, cost(64))
        assert small.notes == (Note("64 pixels", "faces of 64 pixels, not 512"),)


def test_a_cost_that_cannot_be_counted_says_why() -> None:
    (table,) = published.chosen("6")
    cell = cost_cell(table.columns[3], 18224, cost(512, macs_g=None, why="an ONNX file"))
    assert (cell.here, cell.notes) == (None, (Note("not counted", "an ONNX file"),))
