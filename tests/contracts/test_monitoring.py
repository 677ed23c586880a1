"""The dashboard and the alert rules ask for numbers that there are."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.serving.deployments import Meter
from components.serving.guard import Event

FOLDER = Path(__file__).parents[2] / "infra/monitoring"


def asked_of() -> dict[str, str]:
    """Return every expression, by the panel or the alert that asks it."""
    board: dict[str, Any] = json.loads((FOLDER / "grafana.json").read_text())
    found = {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in board["panels"]
        for target in panel["targets"]
    }
    [group] = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"]
    return found | {rule["alert"]: rule["expr"] for rule in group["rules"]}


@pytest.fixture(scope="module")
def counted() -> str:
    meter = Meter(None)
    asyncio.run(meter.add([Event("small", 200, 0.1, 1)]))
    return asyncio.run(meter.text()).decode()


@pytest.mark.parametrize("asked", asked_of().values(), ids=asked_of())
def test_each_expression_asks_for_a_number_with_the_labels_that_it_has(
    asked: str, counted: str
) -> None:
    assert asked.count("(") == asked.count(")")
    for name, labels in re.findall(r"\b(hdrface_\w+)(?:\{([^}]*)\})?", asked):
        assert re.search(rf"^{name}[ {{]", counted, re.MULTILINE), name
        for label in re.findall(r"(\w+)=", labels):
            assert re.search(rf"^{name}{{.*\b{label}=", counted, re.MULTILINE), (name, label)
    by = re.findall(r"\(rate\((hdrface_\w+)\[[^]]*\]\)\) by \((\w+)\)", asked)
    assert all(re.search(rf"^{name}{{.*\b{label}=", counted, re.MULTILINE) for name, label in by)


def test_every_alert_says_what_to_do() -> None:
    [group] = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"]
    assert all(rule["annotations"]["summary"] and rule["labels"] for rule in group["rules"])
