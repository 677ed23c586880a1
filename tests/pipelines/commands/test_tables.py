"""`hdrface tables paper`: in a project without anything, and with a file of scores."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from components.metrics.catalogue import how_of
from pipelines.cli import app


def run(*words: str) -> str:
    done = CliRunner().invoke(app, ["tables", "paper", *words])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(autouse=True)
def empty_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_an_empty_project_has_the_papers_numbers_and_reasons(empty_project: Path) -> None:
    told = run()
    assert "Table 1. Comparison on CelebA-Test: 0 of 80 cells measured here" in told
    assert "train it with 'dvc repro'" in told
    written = sorted(file.name for file in (empty_project / "reports/tables").iterdir())
    assert written == ["paper.csv", "paper.html", "paper.md", "paper.tex"]


def test_scores_of_evaluate_are_compared_where_they_are_the_papers() -> None:
    interval = {"mean": 23.0, "low": 22.9, "high": 23.1, "n": 3000, "of": 3000}
    metrics = {"psnr": {"protocol": how_of("psnr").protocol, "restored": interval}}
    protocol = {"faces": "CelebA-Test", "size": 512}
    content = {"protocol": protocol, "metrics": metrics, "unavailable": {}}
    Path("vqfr.json").write_text(json.dumps(content))
    Path("tables.yaml").write_text("methods: {VQFR: {celeba-test: vqfr.json}}")
    told = run("tables.yaml", "--only", "1", "-o", "out")
    assert "1 of 80 cells measured here, 1 comparable" in told
    assert "23.00 [22.90, 23.10] (−0.14)" in Path("out/paper.md").read_text()
    assert "Table 2" not in Path("out/paper.md").read_text()


def test_a_table_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="no table '5'"):
        run("--only", "5")
