"""The command `hdrface import`, run as people run it."""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from components.weights.manifest import Description
from pipelines.cli import app
from tests.published_layouts import narrow_encoder, write_osdface, write_sd21


def run(*words: object) -> Result:
    return CliRunner().invoke(app, list(map(str, words)))


def shown(done: Result) -> str:
    assert done.exit_code == 0, done.exception
    return " ".join(done.stdout.split())


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
