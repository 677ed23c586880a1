"""The paper's numbers in the package are those of the paper."""

import json
from pathlib import Path

import pytest

from components.metrics.catalogue import CATALOGUE
from components.paper import published

_PREFIXES = {"celebchild": "celebchild.", "lfw-test": "lfw."}


@pytest.mark.shared
def test_every_number_is_the_papers(shared_dir: Path) -> None:
    content = json.loads((shared_dir / "paper/tables.json").read_text())
    source = content.pop("source")
    numbers = json.loads(Path(published.__file__).with_name("numbers.json").read_text())
    assert numbers["source"] == source
    assert {
        table["key"]: {
            "columns": [
                _PREFIXES.get(column.get("set", ""), "") + column["metric"]
                for column in table["columns"]
            ],
            "rows": {row["name"]: row["values"] for row in table["rows"]},
        }
        for table in numbers["tables"]
    } == content


def test_some_numbers_as_they_are_printed() -> None:
    """So that a wrong number is seen without the paper beside the checkout, too."""
    (first,) = published.chosen("1")
    (row,) = (row for row in first.rows if row.method == "HDRFace (SD 2.1)")
    assert dict(zip((column.name for column in first.columns), row.values, strict=True)) == {
        "ssim": 0.6782,
        "psnr": 23.62,
        "dists": 0.1433,
        "lpips": 0.2224,
        "topiq_fr": 0.5344,
        "deg": 30.12,
        "lmd": 1.939,
        "fid": 40.66,
    }


def test_every_row_has_a_number_for_every_column() -> None:
    for table in published.tables():
        assert {len(row.values) for row in table.rows} == {len(table.columns)}


def test_a_metric_is_called_as_in_the_catalogue_and_has_its_direction() -> None:
    for metric in published.METRICS.values():
        for entry in metric.entries:
            found = CATALOGUE[entry]
            assert (found.title, found.direction) == (metric.title, metric.better)


def test_tables_are_chosen_by_number_and_parts_come_together() -> None:
    assert [table.number for table in published.chosen("4, 1")] == [1, 4, 4, 4]
    assert {table.number for table in published.chosen(None)} == {1, 2, 3, 4, 6, 7}
    with pytest.raises(ValueError, match=r"no table '5'; there are 1, 2, 3, 4, 6, 7"):
        published.chosen("1,5")
