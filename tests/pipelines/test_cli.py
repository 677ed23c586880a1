import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines import cli

HEAVY = (
    *("torch", "ray", "diffusers", "mlflow", "pyiqa", "insightface"),
    *("hydra", "rich", "pyarrow"),
)
COMMANDS = [
    [],
    ["evaluate"],
    ["restore"],
    ["degrade"],
    ["inspect"],
    ["results"],
    ["promote"],
    ["rollback"],
    ["lineage"],
    ["submit"],
    ["serve"],
    ["jobs"],
    ["config"],
    ["config", "use"],
    ["config", "check"],
    ["tables"],
    ["tables", "verify"],
    ["keys"],
    ["keys", "add"],
    ["keys", "remove"],
    ["keys", "list"],
]
HELP = f"""
import sys
from typer.testing import CliRunner
from pipelines.cli import app
for words in {COMMANDS!r}:
    assert CliRunner().invoke(app, [*words, "--help"]).exit_code == 0, words
print([name for name in {HEAVY!r} if name in sys.modules])
"""


def test_no_help_page_imports_a_heavy_package(repository: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HELP], cwd=repository, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_says_what_it_does(words: list[str]) -> None:
    usage, _, description, *_ = CliRunner().invoke(cli.app, [*words, "--help"]).stdout.splitlines()
    assert usage.startswith("Usage: ")
    assert len(description.split()) > 3


@pytest.mark.parametrize(
    "words",
    [
        ["config", "use", "tiny"],  # there is no conf/ here
        ["results"],
        ["inspect", "nowhere"],
        ["tables", "verify", "nowhere"],
        ["degrade", "nowhere", "out"],
        ["evaluate", "--model", "nowhere", "--hq", "nowhere"],
        ["restore", "nowhere", "-o", "out", "--model", "nowhere"],
        ["promote", "nowhere"],
        ["lineage", "nowhere"],
    ],
    ids=" ".join,
)
def test_a_users_mistake_is_told_in_one_line_with_exit_code_2(
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["hdrface", *words])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("hdrface: ")
    assert len(told.err.splitlines()) == 1


def test_a_table_of_results_names_every_model_and_the_gate_every_loser(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics/summary.json").write_text(
        '{"sd21-sdfm": {"psnr": {"restored": {"mean": 23.1, "low": 22.0, "high": 24.0, "n": 7},'
        ' "gain": {"mean": 0.7, "low": 0.2, "high": 1.1, "n": 7}}},'
        ' "qwen-sdfm": {"psnr": {"restored": {"mean": 22.5, "low": 21.0, "high": 24.0, "n": 7},'
        ' "gain": {"mean": 0.1, "low": -0.2, "high": 0.3, "n": 7}}, "deg": {}}}'
    )
    passed = CliRunner().invoke(cli.app, ["results"])
    assert passed.exit_code == 0
    for word in ("sd21-sdfm", "qwen-sdfm", "23.100", "+0.700", "+0.200 … +1.100", "7"):
        assert word in passed.stdout
    gated = CliRunner().invoke(cli.app, ["results", "--gate"])
    assert gated.exit_code == 1
    assert "qwen-sdfm" in gated.stderr
    assert "sd21-sdfm" not in gated.stderr
