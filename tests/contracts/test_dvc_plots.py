"""`plots:` in dvc.yaml against the files that the report writes and the templates in .dvc/plots."""

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc_render.vega import VegaRenderer

from components.reporting import plots

REPOSITORY = Path(__file__).parents[2]
STAGES = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
PLOTS = [item for plot in STAGES["report"]["plots"] for item in plot.items()]
WRITTEN = {
    "losses.csv": plots.losses({}),
    "severity.csv": plots.severity({}),
    "conditions.csv": plots.conditions({}),
}


def fields(spec: Any) -> Iterator[str]:
    """List the columns that a drawing in Vega-Lite takes."""
    if isinstance(spec, Mapping):
        if isinstance(spec.get("field"), str):
            yield spec["field"]
        for name, value in spec.items():
            if name != "data":
                yield from fields(value)
    elif isinstance(spec, list):
        for value in spec:
            yield from fields(value)


def test_dvc_draws_every_file_that_the_report_writes_for_it() -> None:
    assert [file for file, _ in PLOTS] == [f"${{report.plots}}/{name}" for name in WRITTEN]


@pytest.mark.parametrize(("file", "settings"), PLOTS)
def test_a_template_is_filled_and_takes_columns_that_are_there(
    file: str, settings: dict[str, Any]
) -> None:
    header = next(csv.reader(WRITTEN[Path(file).name].splitlines()))
    point = {**dict.fromkeys(header, "1"), "rev": "workspace"}
    told = {key: value for key, value in settings.items() if key != "cache"}
    templates = str(REPOSITORY / ".dvc" / "plots")
    drawn = VegaRenderer([point], file, template_dir=templates, **told).get_filled_template()
    assert "<DVC_METRIC" not in json.dumps(drawn)
    assert drawn["data"]["values"] == [point]
    assert {settings["x"], settings["y"]} <= set(fields(drawn)) <= {*header, "rev"}
