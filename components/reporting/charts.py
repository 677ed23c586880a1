"""Charts as inline SVG: the page needs no library, and colours follow its light or dark theme.

Colours are CSS classes of the page: `degraded`, `intermediate`, `restored` for roles, `s0` to `s5`
for series.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup, escape

from components.reporting.comparison import ROLES

WIDTH = 460
_NUM_POINTS = 160  # of a curve; more steps are averaged in bins
NUM_COLOURS = 6
_DECADES_FOR_LOG = 0.8  # a curve that falls further is drawn on a logarithmic axis


@dataclass(frozen=True)
class Curve:
    """A quantity over training steps."""

    name: str
    steps: npt.NDArray[np.float64]
    values: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Node:
    """A stage, with the items of its matrix and the stages that it reads from."""

    name: str
    items: tuple[str, ...]
    reads: frozenset[str]


def curves_of(history: Sequence[Mapping[str, float]], *, without: Sequence[str]) -> list[Curve]:
    """Return a curve for each quantity of a training's history; a long one is averaged in bins.

    `loss`, the sum of all terms, comes first.
    """
    names = [name for name in _names(history) if name not in (*without, "step")]
    names.sort(key=lambda name: name != "loss")
    curves = []
    for name in names:
        rows = [(row["step"], row[name]) for row in history if name in row]
        bins = np.array_split(np.array(rows, dtype=np.float64), min(_NUM_POINTS, len(rows)))
        points = np.array([part.mean(axis=0) for part in bins])
        curves.append(Curve(name, points[:, 0], points[:, 1]))
    return curves


def _names(history: Sequence[Mapping[str, float]]) -> list[str]:
    return list(dict.fromkeys(name for row in history for name in row))


def line_chart(curves: Sequence[Curve], *, title: str) -> Markup:
    """Draw curves over steps; pointing at a step shows its values."""
    height, left, right, top, bottom = 240, 50, 10, 10, 36
    values = np.concatenate([curve.values for curve in curves])
    positive = values[values > 0]
    is_log = len(positive) == len(values) and np.log10(values.max() / values.min()) > (
        _DECADES_FOR_LOG
    )
    low, high = (math.log10(values.min()), math.log10(values.max())) if is_log else span(values)
    first = float(min(curve.steps[0] for curve in curves))
    last = float(max(curve.steps[-1] for curve in curves))

    def x(step: float) -> float:
        return left + (step - first) / (last - first or 1) * (WIDTH - left - right)

    def y(value: float) -> float:
        at = math.log10(value) if is_log else value
        return top + (high - at) / (high - low or 1) * (height - top - bottom)

    parts = []
    for tick in _log_ticks(low, high) if is_log else ticks(low, high):
        parts.append(
            f'<path class="grid" d="M{left} {y(tick):.1f}H{WIDTH - right}"/>'
            f'<text x="{left - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{short(tick)}</text>'
        )
    for tick in ticks(first, last, 5):
        parts.append(
            f'<text x="{x(tick):.1f}" y="{height - 18}" text-anchor="middle">{short(tick)}</text>'
        )
    parts.append(f'<text x="{WIDTH - right}" y="{height - 4}" text-anchor="end">step</text>')
    for index, curve in reversed(list(enumerate(curves))):
        points = " ".join(
            f"{x(step):.1f},{y(value):.1f}"
            for step, value in zip(curve.steps, curve.values, strict=True)
        )
        parts.append(f'<polyline class="line s{index % NUM_COLOURS}" points="{points}"/>')
    parts.append(f'<path class="cursor" d="M0 {top}V{height - bottom}"/>')
    data = {
        "x": [round(x(step), 1) for step in curves[0].steps],
        "steps": [round(step) for step in curves[0].steps],
        "values": [[short(value) for value in curve.values] for curve in curves],
    }
    scale = "logarithmic" if is_log else "linear"
    return svg(parts, height, f"{title}, over steps, {scale} axis", {"data-curves": data})


def interval_chart(rows: Sequence[tuple[str, Mapping[str, Any]]], *, title: str) -> Markup:
    """Draw the mean of every role for each model, with its interval as a whisker."""
    left, right, top, step = 10, 14, 6, 54
    height = top + step * len(rows) + 26
    bounds = [
        bound
        for _, roles in rows
        for role in ROLES
        if role in roles
        for bound in (roles[role]["mean"], roles[role]["low"], roles[role]["high"])
        if bound is not None
    ]
    low, high = span(np.array(bounds))

    def x(value: float) -> float:
        return left + (value - low) / (high - low) * (WIDTH - left - right)

    parts = [
        f'<path class="grid" d="M{x(tick):.1f} {top}V{height - 22}"/>'
        f'<text x="{x(tick):.1f}" y="{height - 6}" text-anchor="middle">{short(tick)}</text>'
        for tick in ticks(low, high, 6)
    ]
    for row, (model, roles) in enumerate(rows):
        base = top + row * step
        parts.append(f'<text class="name" x="{left}" y="{base + 12}">{escape(model)}</text>')
        for place, role in enumerate(role for role in ROLES if role in roles):
            at, y = roles[role], base + 22 + place * 10
            if at["low"] is not None:
                whisker = f"M{x(at['low']):.1f} {y}H{x(at['high']):.1f}"
                parts.append(f'<path class="whisker {role}" d="{whisker}"/>')
            parts.append(f'<circle class="{role}" cx="{x(at["mean"]):.1f}" cy="{y}" r="4.5"/>')
    return svg(parts, height, title, {})


def stage_graph(nodes: Sequence[Node]) -> Markup:
    """Draw the stages from left to right: one column per depth, one arrow per dependency."""
    depths = _depths(nodes)
    columns: dict[int, list[Node]] = {}
    for node in nodes:
        columns.setdefault(depths[node.name], []).append(node)
    box, gap, line = 104, 34, 15
    height = 24 + max(
        sum(34 + line * len(node.items) + 12 for node in column) for column in columns.values()
    )
    places: dict[str, tuple[float, float, float]] = {}  # left, top, height
    for depth, column in columns.items():
        heights = [30.0 + line * len(node.items) for node in column]
        free = (height - sum(heights)) / (len(column) + 1)
        top = free
        for node, tall in zip(column, heights, strict=True):
            places[node.name] = (4 + depth * (box + gap), top, tall)
            top += tall + free
    parts = []
    for source, target in _needed_edges(nodes):
        from_left, from_top, from_tall = places[source]
        to_left, to_top, to_tall = places[target]
        start = (from_left + box, from_top + from_tall / 2)
        end = (to_left - 5, to_top + to_tall / 2)
        bend = (start[0] + end[0]) / 2
        parts.append(
            f'<path class="edge" d="M{start[0]:.0f} {start[1]:.0f}C{bend:.0f} {start[1]:.0f} '
            f'{bend:.0f} {end[1]:.0f} {end[0]:.0f} {end[1]:.0f}" marker-end="url(#arrow)"/>'
        )
    for node in nodes:
        left, top, tall = places[node.name]
        parts.append(
            f'<rect class="stage" x="{left:.0f}" y="{top:.0f}" width="{box}" height="{tall}" '
            'rx="7"/>'
            f'<text class="name" x="{left + 10:.0f}" y="{top + 20:.0f}">{escape(node.name)}</text>'
        )
        for row, item in enumerate(node.items):
            parts.append(
                f'<text x="{left + 10:.0f}" y="{top + 37 + row * line:.0f}">{escape(item)}</text>'
            )
    arrow = (
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path class="head" d="M0 0L8 4L0 8z"/></marker></defs>'
    )
    width = 8 + (max(columns) + 1) * (box + gap) - gap
    names = ", ".join(node.name for node in nodes)
    return svg([arrow, *parts], height, f"The line of stages: {names}", {}, width)


def _depths(nodes: Sequence[Node]) -> dict[str, int]:
    reads = {node.name: node.reads for node in nodes}
    depths: dict[str, int] = {}

    def depth(name: str) -> int:
        if name not in depths:
            depths[name] = 1 + max((depth(source) for source in reads[name]), default=-1)
        return depths[name]

    for name in reads:
        depth(name)
    return depths


def _needed_edges(nodes: Sequence[Node]) -> list[tuple[str, str]]:
    """Return the edges, without those that a longer way through other stages replaces."""
    reads = {node.name: node.reads for node in nodes}

    def behind(name: str) -> set[str]:
        return set(reads[name]).union(*(behind(source) for source in reads[name]))

    return [
        (source, node.name)
        for node in nodes
        for source in sorted(node.reads)
        if not any(source in behind(other) for other in node.reads - {source})
    ]


def svg(
    parts: Sequence[str],
    height: float,
    label: str,
    data: Mapping[str, Any],
    width: float = WIDTH,
) -> Markup:
    attributes = "".join(
        f' {name}="{escape(json.dumps(value, separators=(",", ":")))}"'
        for name, value in data.items()
    )
    return Markup(
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(label)}"'
        f"{attributes}>{''.join(parts)}</svg>"
    )


def span(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    margin = (high - low) * 0.06 or abs(high) * 0.05 or 1.0
    return low - margin, high + margin


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Return round numbers between two bounds, about `wanted` of them."""
    if high <= low:
        return [low]
    rough = (high - low) / wanted
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * unit for factor in (1, 2, 2.5, 5, 10) if factor * unit >= rough)
    return [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 times powers of ten between two exponents; if many, only the powers."""
    decades = range(math.floor(low), math.ceil(high) + 1)
    factors = (1, 2, 5) if high - low < 2.5 else (1,)
    ticks = [factor * 10.0**decade for decade in decades for factor in factors]
    return [tick for tick in ticks if low <= math.log10(tick) <= high]


def short(value: float) -> str:
    """Write a number in a few characters, never as 0.30000000000000004."""
    if value and (abs(value) < 1e-3 or abs(value) >= 1e5):
        return f"{value:.2g}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:.4g}"
