"""Git, run in a folder."""

import os
import subprocess
from pathlib import Path
from typing import TypedDict


class Commit(TypedDict):
    """The commit checked out, and whether tracked files differ from it."""

    commit: str | None
    dirty: bool


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[bytes]:
    """Run git; the caller looks at the exit code. Without git it is 127, as in a shell."""
    command = ["git", "-C", str(folder), *words]
    try:
        return subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError:
        return subprocess.CompletedProcess(command, 127, b"", b"git is not installed: install it")


def output(folder: Path, *words: str) -> str:
    """Run git and return what it prints.

    Raises: ValueError with git's last line if it fails.
    """
    done = run(folder, *words)
    if done.returncode:
        said = os.fsdecode(done.stderr).strip() or f"exit code {done.returncode}"
        raise ValueError(f"git {words[0]} in {folder}: {said.splitlines()[-1]}")
    return os.fsdecode(done.stdout)


def commit(folder: Path) -> Commit:
    """Find the commit that is checked out; it is None outside a git repository."""
    try:
        head = output(folder, "rev-parse", "HEAD").strip()
        changed = output(folder, "status", "--porcelain", "--untracked-files=no")
    except ValueError:
        return {"commit": None, "dirty": False}
    return {"commit": head, "dirty": bool(changed.strip())}
