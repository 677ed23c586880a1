"""What MLflow's own page shows of trainings and of an ablation, in a real browser."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest

from components.tracking import parent_runs, presented
from components.tracking.runs import TrainingRun, log_evaluation
from tests.servers import MlflowServer

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

CONDITIONS = {"dino": 0.2, "lr": 0.4, "sdfm": 0.9}  # and the gain in PSNR
WAIT_MS = 60_000


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Serve MLflow's page over six runs; gives its address."""
    monkeypatch.chdir(tmp_path)
    children = [
        train(backbone, condition, gain)
        for backbone in ("sd21", "qwen")
        for condition, gain in CONDITIONS.items()
    ]
    parent_runs.gather("condition", children, description="| table |\n|---|\n", files=[])
    with MlflowServer(f"sqlite:///{tmp_path}/mlflow.db", {}, tmp_path / "log") as server:
        yield server.url


def train(backbone: str, condition: str, gain: float) -> str:
    run = TrainingRun.begin(
        f"{backbone}-{condition}",
        name=f"train@{backbone}-{condition}",
        params={"backbone": backbone, "condition": condition},
        source="pipelines.train",
        inputs={"features": "f00d" * 16},
    )
    run.log_points([{"step": step, "loss": 1 / step} for step in range(1, 4)])
    run.finish()
    interval = {"low": 0.1, "high": 0.9, "n": 32}
    means = {"degraded": 22.0, "restored": 22.0 + gain, "gain": gain}
    found = {"psnr": {role: {"mean": mean, **interval} for role, mean in means.items()}}
    log_evaluation(run.id, presented.scores(found), [], presented.description(found))
    return run.id


def test_runs_are_there_best_first_and_an_ablation_leads_to_their_charts(
    address: str, browser: Any, repository: Path
) -> None:
    page = browser.new_page(viewport={"width": 1600, "height": 1000})
    # As `make mlflow` tells it.
    makefile = (repository / "Makefile").read_text()
    path = makefile.partition("http://127.0.0.1:5000/")[2].partition('"')[0]
    page.goto(f"{address}/{path}")
    page.get_by_text("train@sd21-sdfm").first.wait_for(timeout=WAIT_MS)
    names = page.get_by_text("train@").all_inner_texts()
    assert {name.rpartition("-")[2] for name in names[:2]} == {"sdfm"}, names
    assert page.get_by_text("pipelines.train").count() == 6
    assert page.get_by_text("features (f00d").count() == 6

    page.get_by_text("condition", exact=True).first.click()
    link = page.get_by_text("All of them in charts")
    target = link.get_attribute("href", timeout=WAIT_MS)  # a click opens a new window
    page.goto(urljoin(page.url, target))
    page.get_by_text("Comparing 6 Runs").wait_for(timeout=WAIT_MS)
    for axis in ("backbone", "condition"):
        page.locator(".parcoords").get_by_text(axis).first.wait_for(timeout=WAIT_MS)
