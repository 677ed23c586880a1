"""A chart of scores over groups of faces: one line per model, whiskers for the intervals."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup, escape

from components.reporting.charts import NUM_COLOURS, WIDTH, short, span, svg, ticks

_HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 190, 50, 10, 10, 24

Row = Mapping[str, Any]  # mean, low, high; `degraded`, the same of the degraded faces


def group_chart(
    models: Mapping[str, Sequence[Row | None]], groups: Sequence[str], *, title: str
) -> Markup:
    """Draw each model's means over the groups, and those of the degraded faces below them.

    `models` is model -> one row per group, None where it has no face.
    """
    lines = [(f"s{index % NUM_COLOURS}", list(rows)) for index, rows in enumerate(models.values())]
    degraded = [None if row is None else row.get("degraded") for row in next(iter(models.values()))]
    lines.append(("degraded", degraded))
    bounds = [
        row[key]
        for _, rows in lines
        for row in rows
        if row is not None
        for key in ("mean", "low", "high")
        if row[key] is not None
    ]
    low, high = span(np.array(bounds))

    def y(value: float) -> float:
        return _TOP + (high - value) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    def x(group: int, line: int) -> float:
        width = (WIDTH - _LEFT - _RIGHT) / len(groups)
        return _LEFT + (group + 0.5) * width + (line - (len(lines) - 1) / 2) * 9

    parts = [
        f'<path class="grid" d="M{_LEFT} {y(tick):.1f}H{WIDTH - _RIGHT}"/>'
        f'<text x="{_LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{short(tick)}</text>'
        for tick in ticks(low, high)
    ]
    middle = (len(lines) - 1) / 2
    for place, group in enumerate(groups):
        at = f'x="{x(place, 0) + middle * 9:.1f}" y="{_HEIGHT - 6}"'
        parts.append(f'<text {at} text-anchor="middle">{escape(group)}</text>')
    for number, (colour, rows) in enumerate(lines):
        there = [(place, row) for place, row in enumerate(rows) if row is not None]
        points = " ".join(f"{x(place, number):.1f},{y(row['mean']):.1f}" for place, row in there)
        parts.append(f'<polyline class="line {colour}" points="{points}"/>')
        for place, row in there:
            at_x = f"{x(place, number):.1f}"
            if row["low"] is not None:
                whisker = f"M{at_x} {y(row['low']):.1f}V{y(row['high']):.1f}"
                parts.append(f'<path class="whisker {colour}" d="{whisker}"/>')
            parts.append(f'<circle class="{colour}" cx="{at_x}" cy="{y(row["mean"]):.1f}" r="4"/>')
    return svg(parts, _HEIGHT, title, {})
