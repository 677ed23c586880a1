"""Charts draw points where the numbers say."""

import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.reporting import charts
from components.reporting.charts import Node


def _history(num: int) -> list[dict[str, float]]:
    return [
        {"step": float(step), "mse": math.exp(-step / 90), "loss": 2 * math.exp(-step / 90), "r": 7}
        for step in range(10, 10 * num + 1, 10)
    ]


def test_a_long_history_is_averaged_in_bins_and_loses_no_step() -> None:
    history = _history(1000)
    curves = charts.curves_of(history, without=["r"])
    assert [curve.name for curve in curves] == ["loss", "mse"]  # the sum stands first
    assert len(curves[0].steps) == 160
    sizes = [len(part) for part in np.array_split(np.arange(1000), 160)]
    weighted = np.average(curves[1].values, weights=sizes)
    assert weighted == pytest.approx(np.mean([row["mse"] for row in history]))


def test_curves_are_drawn_to_scale_and_a_long_fall_on_a_logarithmic_axis() -> None:
    svg = ElementTree.fromstring(
        charts.line_chart(charts.curves_of(_history(60), without=["r"]), title="Losses of a < b")
    )
    assert svg.get("aria-label") == "Losses of a < b, over steps, logarithmic axis"
    lines = {line.get("class"): line.get("points") for line in svg.iter("polyline")}
    for points in lines.values():
        assert points is not None
        xy = np.array([[float(part) for part in point.split(",")] for point in points.split()])
        # An exponential is a straight line there.
        fitted = np.polyval(np.polyfit(xy[:, 0], xy[:, 1], 1), xy[:, 0])
        assert np.abs(fitted - xy[:, 1]).max() < 0.2


def test_one_point_and_a_value_of_zero_can_be_drawn() -> None:
    for history in ([{"step": 5.0, "loss": 1.0}], [{"step": s, "loss": s - 1.0} for s in (1, 2)]):
        chart = charts.line_chart(charts.curves_of(history, without=[]), title="x")
        assert "nan" not in chart
        assert "linear axis" in chart


def test_whiskers_span_the_interval() -> None:
    def at(mean: float) -> dict[str, float | None]:
        return {"mean": mean, "low": mean - 1, "high": mean + 2, "n": 9}

    rows = [("a", {"degraded": at(20), "restored": at(23)})]
    svg = ElementTree.fromstring(charts.interval_chart(rows, title="PSNR"))
    dots = {dot.get("class"): float(dot.get("cx", "")) for dot in svg.iter("circle")}
    unit = (dots["restored"] - dots["degraded"]) / 3
    whiskers = [path for path in svg.iter("path") if (path.get("class") or "").startswith("whi")]
    assert len(whiskers) == 2
    left, right = map(float, re.findall(r"M([\d.]+) \d+H([\d.]+)", whiskers[0].get("d", ""))[0])
    assert left == pytest.approx(dots["degraded"] - unit, abs=0.2)
    assert right == pytest.approx(dots["degraded"] + 2 * unit, abs=0.2)
    # One face has no interval, and still a dot.
    alone = {"restored": {"mean": 5.0, "low": None, "high": None, "n": 1}}
    assert "whisker" not in charts.interval_chart([("a", alone)], title="PSNR")


def test_stages_are_right_of_what_they_read_and_redundant_edges_are_not_drawn() -> None:
    nodes = [
        Node("faces", (), frozenset()),
        Node("degrade", (), frozenset({"faces"})),
        Node("train", ("a", "b"), frozenset({"degrade", "faces"})),
    ]
    svg = ElementTree.fromstring(charts.stage_graph(nodes))
    lefts = [float(box.get("x", "")) for box in svg.iter("rect")]
    assert lefts == sorted(lefts)
    assert len(set(lefts)) == 3
    edges = [path for path in svg.iter("path") if path.get("class") == "edge"]
    assert len(edges) == 2
    texts = [text.text for text in svg.iter("text")]
    assert texts == ["faces", "degrade", "train", "a", "b"]


@given(st.floats(-1e4, 1e4), st.floats(1e-3, 1e4))
def test_ticks_are_few_round_and_within(low: float, span: float) -> None:
    ticks = charts.ticks(low, low + span)
    assert 2 <= len(ticks) <= 6
    slack = 1e-9 * (abs(low) + span)
    assert all(low - slack <= tick <= low + span + slack for tick in ticks)
    assert np.ptp(np.diff(ticks)) <= 1e-6 * span if len(ticks) > 2 else True
