"""The files that `dvc plots` draws: losses, scores by severity, scores by condition, as CSV."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from components.reporting import charts, comparison
from components.reporting.comparison import GAIN

Results = Mapping[str, Mapping[str, Any]]  # model -> metrics file

_INTERVAL = ("mean", "low", "high", "n")


def losses(histories: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Return the loss of each training over its steps; a long one is averaged in bins."""
    rows = [
        (model, round(step), value)
        for model, history in histories.items()
        for curve in charts.curves_of(history, without=())
        if curve.name == "loss"
        for step, value in zip(curve.steps, curve.values, strict=True)
    ]
    return _csv(("model", "step", "loss"), rows)


def severity(results: Results) -> str:
    """Return each model's scores by severity and by group (`groups.compare`)."""
    names = ("model", "metric", "by", "group", *_INTERVAL, "degraded", "gain")
    rows = [
        (
            *(model, row["metric"], row["column"], row["group"]),
            *(row[key] for key in _INTERVAL),
            *(row.get(role, {}).get("mean") for role in ("degraded", GAIN)),
        )
        for model, result in results.items()
        for row in result.get("groups", ())
    ]
    return _csv(names, rows)


def conditions(results: Results) -> str:
    """Return the scores of each model by its backbone and condition.

    A restorer of another project has neither: its name is the condition.
    """
    names = (
        "model",
        "backbone",
        "condition",
        "metric",
        *_INTERVAL,
        "gain",
        "gain_low",
        "gain_high",
    )
    rows = [
        (
            *(model, about.get("backbone", "other"), about.get("condition", model), metric),
            *(roles["restored"][key] for key in _INTERVAL),
            *(roles.get(GAIN, {}).get(key) for key in ("mean", "low", "high")),
        )
        for model, result in results.items()
        for about in (result["model"],)
        for metric, roles in comparison.intervals_of(result).items()
    ]
    return _csv(names, rows)


def _csv(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        writer.writerow([f"{value:.6g}" if isinstance(value, float) else value for value in row])
    return text.getvalue()
