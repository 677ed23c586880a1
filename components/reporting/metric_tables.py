"""The report's tables of scores: one per metric and protocol, so that no column mixes two."""

from collections.abc import Mapping
from typing import Any

from components.metrics.catalogue import CATALOGUE
from components.metrics.protocol import title, told
from components.reporting import charts
from components.reporting.comparison import GAIN


def tables(results: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Make each metric's table: models from best to worst, and the best values."""
    found = dict.fromkeys(
        (name, told(metric["protocol"]))
        for result in results.values()
        for name, metric in result["metrics"].items()
    )
    return [_metric(name, protocol, results) for name, protocol in found]


def _metric(name: str, protocol: str, results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Make the table of one metric under one protocol; other protocols have their own."""
    entry = CATALOGUE[name]
    rows = [
        (model, metric)
        for model, result in results.items()
        if (metric := result["metrics"].get(name)) and told(metric["protocol"]) == protocol
    ]
    sign = 1 if entry.direction == "higher" else -1
    rows.sort(key=lambda row: (-sign * row[1]["restored"]["mean"], row[0]))
    best = {
        role: sign * max(sign * scores[role]["mean"] for _, scores in rows)
        for role in ("restored", GAIN)
    }
    return {
        "name": name,
        "entry": entry,
        "title": title(entry.title, rows[0][1]["protocol"]),
        "protocol": protocol,
        "warnings": sorted({scores["restored"].get("warning", "") for _, scores in rows} - {""}),
        "rows": rows,
        "best": best,
        "faces": sorted({scores["restored"]["n"] for _, scores in rows}),
        "digits": 2 if entry.unit else 3,
        "verdicts": {model: _verdict(scores[GAIN], sign) for model, scores in rows},
        "chart": charts.interval_chart(rows, title=f"{entry.title} of every model, with intervals"),
    }


def _verdict(gain: Mapping[str, Any], sign: int) -> str:
    """Return whether the interval of a gain lies on one side of zero."""
    if gain["low"] is None:
        return "open"
    bounds = sorted((sign * gain["low"], sign * gain["high"]))
    return "better" if bounds[0] > 0 else "worse" if bounds[1] < 0 else "open"


def highlights(results: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return what the head of the page shows of each model, from best to worst."""
    name = "psnr" if all("psnr" in result["metrics"] for result in results.values()) else None
    if name is None:
        name = next((name for result in results.values() for name in result["metrics"]), None)
    if name is None:
        return []
    measured = (result["metrics"] for result in results.values())
    protocol = next(metrics[name]["protocol"] for metrics in measured if name in metrics)
    metric = _metric(name, told(protocol), results)
    return [
        {"model": model, "scores": scores, "verdict": metric["verdicts"][model], "metric": metric}
        for model, scores in metric["rows"]
    ]


def unavailable(results: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return the metrics that were not measured, and why."""
    found: dict[str, str] = {}
    for result in results.values():
        found.update(result["unavailable"])
    return found


def failures(results: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return every result that has no score, with its model; older metrics files name none."""
    return [
        {"model": model, **failure}
        for model, result in results.items()
        for failure in result.get("failures", ())
    ]
