"""Which files of a checkout are sent to a cluster, and how they are packed for a job.

Ray's own packing leaves out `.git`, and gives two jobs of equal trees one folder, where the second
finds what the first one wrote. So the tree is packed here, for each job again.
"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from zipfile import ZIP_DEFLATED, ZipFile

from components import git

# The job server takes 100 MiB per request and keeps it in the head node's memory. Code is far less.
LIMIT_MB = 90
# Made by a run or an installation; sent only if git tracks it.
_NEVER = (
    *("/data", "/models", "/reports", "/mlruns", "/mlartifacts", "/mlflow.db*"),
    *(".venv", "__pycache__", "*.partial", "/.dvc/cache", "/.dvc/tmp", "/.dvc/config.local"),
)


class Tree(NamedTuple):
    """The files of a folder that are sent, relative to it, and the commit they are based on."""

    folder: Path
    files: Sequence[str]
    commit: git.Commit


def tree(folder: Path) -> Tree:
    """List the files of a folder that git tracks, and new ones that it does not ignore.

    A folder without git is listed by the rules of its `.gitignore` too.

    Raises: ValueError without git, in a part of a checkout, and for files that Ray cannot send.
    """
    folder = folder.resolve()
    never = [f"--exclude={pattern}" for pattern in _NEVER]
    listing = ("ls-files", "-z", "--cached", "--others", "--exclude-standard", *never)
    try:
        top = Path(git.output(folder, "rev-parse", "--show-toplevel").strip())
    except ValueError:
        if (folder / ".git").exists():
            raise  # another user's or a broken checkout
        with tempfile.TemporaryDirectory() as empty:
            git.output(folder, "init", "--quiet", "--bare", empty)
            listed = git.output(folder, f"--git-dir={empty}", f"--work-tree={folder}", *listing)
    else:
        if top.resolve() != folder:
            raise ValueError(f"{folder} is only a part of a checkout: run this in {top}")
        listed = git.output(folder, *listing)
    found = [name for name in dict.fromkeys(listed.split("\0")) if name]
    if strange := [name for name in found if _cannot_be_sent(folder / name)]:
        raise ValueError(
            "Ray sends no links and no checkouts within a checkout: add to .gitignore or remove "
            + ", ".join(strange[:5])
        )
    return Tree(folder, [name for name in found if (folder / name).exists()], git.commit(folder))


def _cannot_be_sent(path: Path) -> bool:
    return path.is_symlink() or path.is_dir()


def pack(source: Tree, archive: Path, job: str) -> int:
    """Write the files of a tree and its git history as a zip file for one job.

    The history is a clone of the commit, without remotes, credentials and hooks.

    Returns: the size of the files in bytes.
    Raises: ValueError above `LIMIT_MB`, naming the largest files.
    """
    with tempfile.TemporaryDirectory() as empty:
        paths = {name: source.folder / name for name in source.files}
        if source.commit["commit"]:
            clone = Path(empty) / "clone"
            # Without --no-local, objects that nothing refers to would be copied too.
            options = ("--quiet", "--no-checkout", "--template=", "--no-local", "--single-branch")
            git.output(source.folder, "clone", *options, ".", str(clone))
            git.output(clone, "remote", "remove", "origin")
            git.output(clone, "read-tree", "HEAD")
            history = sorted((clone / ".git").rglob("*"))
            paths |= {path.relative_to(clone).as_posix(): path for path in history}
        sizes = {name: path.stat().st_size for name, path in paths.items() if path.is_file()}
        _check_size(sizes)
        with ZipFile(archive, "w", ZIP_DEFLATED, strict_timestamps=False) as packed:
            packed.comment = job.encode()  # so no two jobs share a package, and its folder
            for name, path in paths.items():
                packed.write(path, name)
    return sum(sizes.values())


def _check_size(sizes: Mapping[str, int]) -> None:
    if (total := sum(sizes.values())) > LIMIT_MB * 1e6:
        largest = sorted(sizes, key=lambda name: -sizes[name])[:3]
        named = ", ".join(f"{name} ({sizes[name] / 1e6:.1f} MB)" for name in largest)
        raise ValueError(
            f"the tree has {total / 1e6:.1f} MB, {LIMIT_MB} MB can be sent: add data to .gitignore "
            f"or move it out; the largest are {named}"
        )
