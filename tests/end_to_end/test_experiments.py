"""`dvc exp run` composes what `hdrface config use` writes."""

import os
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.end_to_end.checkout import Checkout


def git(folder: Path, *words: str) -> None:
    who = ("-c", "user.name=Test", "-c", "user.email=test@localhost")
    subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True)


@pytest.mark.slow
def test_an_experiment_runs_a_profile(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path, os.environ)
    (tmp_path / ".dvc/config.local").unlink()
    checkout.hdrface("config", "use", "smoke", "samples.count=2", "samples.seed=5")
    expected = yaml.safe_load((tmp_path / "params.yaml").read_text())
    checkout.hdrface("config", "use", "tiny")
    (tmp_path / ".gitignore").write_text("__pycache__/\n/data/\n/.dvc/tmp/\n/.dvc/cache/\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "start")

    changes = ("--set-param", "profile=smoke", "--set-param", "samples.count=2")
    checkout.succeed("dvc", "exp", "run", *changes, "--set-param", "samples.seed=5", "samples")
    assert yaml.safe_load((tmp_path / "params.yaml").read_text()) == expected
    assert len(list((tmp_path / "data/samples").glob("portrait-*.png"))) == 2
    assert "samples.count" in checkout.succeed("dvc", "exp", "show", "--md")
