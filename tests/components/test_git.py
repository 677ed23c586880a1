import subprocess
from pathlib import Path

import pytest

from components import git


def run(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=T", "-c", "user.email=t@example.org"]
    command = ["git", "-C", str(folder), *who, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_the_commit_is_found_and_whether_tracked_files_differ_from_it(tmp_path: Path) -> None:
    assert git.commit(tmp_path) == {"commit": None, "dirty": False}

    (tmp_path / "code.py").write_text("first")
    run(tmp_path, "init", "--quiet")
    run(tmp_path, "add", ".")
    run(tmp_path, "commit", "--quiet", "-m", "first")
    head = run(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "data").write_text("untracked")
    assert git.commit(tmp_path) == {"commit": head, "dirty": False}

    (tmp_path / "code.py").write_text("second")
    assert git.commit(tmp_path) == {"commit": head, "dirty": True}


def test_output_that_cannot_be_had_is_an_error_with_what_git_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"git rev-parse in .*: fatal: not a git repository"):
        git.output(tmp_path, "rev-parse", "HEAD")


def test_a_machine_without_git_is_told_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git.commit(tmp_path) == {"commit": None, "dirty": False}
    with pytest.raises(ValueError, match="git is not installed: install it"):
        git.output(tmp_path, "ls-files")
