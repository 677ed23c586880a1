"""What the report says of groups of faces: scores by severity and by group, and what got worse."""

from collections.abc import Mapping, Sequence
from typing import Any

from components.metrics.catalogue import CATALOGUE
from components.metrics.protocol import title, told
from components.reporting.comparison import GAIN
from components.reporting.gallery import Face
from components.reporting.group_chart import group_chart

Results = Mapping[str, Mapping[str, Any]]  # model -> metrics file

# What the numbers of a degradation are (`groups.severity_of`).
_SEVERITIES = {
    "blur": "blur, σ in pixels",
    "scale": "scale, times smaller",
    "noise": "noise, σ of 255",
    "jpeg": "JPEG quality, less is worse",
}


def tables(results: Results) -> list[dict[str, Any]]:
    """Make one entry per metric and protocol, with one table and one chart per column of groups."""
    found = dict.fromkeys(
        (row["metric"], told(result["metrics"][row["metric"]]["protocol"]))
        for result in results.values()
        for row in result.get("groups", ())
    )
    return [_metric(name, protocol, results) for name, protocol in found]


def _metric(name: str, protocol: str, results: Results) -> dict[str, Any]:
    entry = CATALOGUE[name]
    models = {
        model: [row for row in result.get("groups", ()) if row["metric"] == name]
        for model, result in results.items()
        if name in result["metrics"] and told(result["metrics"][name]["protocol"]) == protocol
    }
    models = {model: rows for model, rows in models.items() if rows}
    columns = dict.fromkeys(row["column"] for rows in models.values() for row in rows)
    first = results[next(iter(models))]["metrics"][name]["protocol"]
    return {
        "name": name,
        "entry": entry,
        "title": title(entry.title, first),
        "digits": 2 if entry.unit else 3,
        "columns": [_column(entry.title, column, models) for column in columns],
    }


def _column(metric: str, column: str, models: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    rows = {
        model: {row["group"]: row for row in rows if row["column"] == column}
        for model, rows in models.items()
    }
    groups = sorted({group for one in rows.values() for group in one})
    counts = {group: {one[group]["n"] for one in rows.values() if group in one} for group in groups}
    told_as = _SEVERITIES.get(column, column)
    return {
        "name": column,
        "title": told_as,
        "groups": groups,
        "titles": {group: _short(column, group) for group in groups},
        "counts": {group: " or ".join(map(str, sorted(found))) for group, found in counts.items()},
        "rows": rows,
        "chart": group_chart(
            {model: [one.get(group) for group in groups] for model, one in rows.items()},
            [_short(column, group) for group in groups],
            title=f"{metric} of every model by {told_as}",
        ),
    }


def _short(column: str, group: str) -> str:
    """Return a group's name, without the number that sorts the parts of a severity."""
    return group.partition(": ")[2] if column in _SEVERITIES else group


def got_worse(results: Results) -> list[dict[str, Any]]:
    """Return for each model and metric how many results are worse than the degraded faces."""
    return [
        {
            "model": model,
            "entry": CATALOGUE[metric],
            "digits": 2 if CATALOGUE[metric].unit else 3,
            "number": len(faces),
            "of": sum(_is_scored(face, metric) for face in result["faces"]),
            "worst": faces[0] if faces else None,
        }
        for model, result in results.items()
        for metric, faces in result.get("worse", {}).items()
        if GAIN in result["metrics"][metric]
    ]


def _is_scored(face: Mapping[str, Any], metric: str) -> bool:
    scores = face["scores"][metric]
    return None not in (scores.get("restored"), scores.get("degraded"))


def loss(face: Face) -> dict[str, Any] | None:
    """Return by how much a face got worse in the first metric that it has; None if it did not."""
    name = next((name for name, roles in face.scores.items() if "restored" in roles), None)
    if name is None or "degraded" not in face.scores[name]:
        return None
    entry = CATALOGUE[name]
    gain = face.scores[name]["restored"] - face.scores[name]["degraded"]
    is_worse = gain < 0 if entry.direction == "higher" else gain > 0
    return {"gain": gain, "entry": entry, "digits": 2 if entry.unit else 3} if is_worse else None
