"""The command `hdrface import`, run as people run it."""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from components.restorers.folder import load_restorer
from components.weights.manifest import Description
from pipelines.cli import app
from tests.first_restorers import write_results
from tests.onnx_networks import onnx_network
from tests.published_layouts import narrow_encoder, write_osdface, write_sd21


def run(*words: object) -> Result:
    return CliRunner().invoke(app, list(map(str, words)))


def shown(done: Result) -> str:
    assert done.exit_code == 0, done.exception
    return " ".join(done.stdout.split())


def test_another_projects_restorer_or_its_results_become_a_folder(tmp_path: Path) -> None:
    network = onnx_network(tmp_path / "half.onnx")
    told = shown(run("import", network, "--as", "onnx", "-o", tmp_path / "models/half"))
    assert Description.read(tmp_path / "models/half").fingerprint in told
    assert "unknown: see where the ONNX file came from" in told
    write_results(tmp_path / "results", ["a", "b"])
    shown(run("import", tmp_path / "results", "--as", "folder", "-o", tmp_path / "models/results"))
    for name in ("half", "results"):
        assert run("inspect", tmp_path / "models" / name).exit_code == 0
        load_restorer(tmp_path / "models" / name)
    refused = run("import", network, "--as", "onnx", "--base", tmp_path, "-o", tmp_path / "other")
    assert "--as onnx takes no --base" in str(refused.exception)
    missing = run("import", tmp_path / "no.pth", "--as", "spandrel", "-o", tmp_path / "other")
    assert "no.pth is missing" in str(missing.exception)
    without = run("import", tmp_path, "--as", "sd21", "-o", tmp_path / "other")
    assert "--as sd21 needs the backbone's weights: add --base DIR" in str(without.exception)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("layout", ["sd21", "osdface"])
def test_a_published_folder_is_imported_and_its_use_is_shown(
    tmp_path: Path, networks: Path, layout: str
) -> None:
    base, out = networks / "sd21", tmp_path / "out"
    write = {"sd21": write_sd21, "osdface": write_osdface}[layout]
    source = write(tmp_path / "authors", base)
    words = ["--as", layout, "--base", base, "--size", 32, "-o", out]
    if layout == "sd21":
        words += ["--encoder", narrow_encoder(tmp_path / "narrow")]
    told = shown(run("import", source, *words))
    assert Description.read(out).fingerprint in told
    assert "needs backbone" in told
    assert {"sd21": "fusion.pth: 10", "osdface": "embedding_change_weights.pth: 4"}[layout] in told
    assert "hdrface restore photos -o restored --model" in told
    again = run("import", source, *words)
    assert "is there already" in str(again.exception)


def test_another_layout_is_refused(tmp_path: Path) -> None:
    done = run("import", tmp_path, "--as", "gfpgan", "--base", tmp_path, "-o", tmp_path / "out")
    assert done.exit_code == 2
    assert "sd21" in done.output
