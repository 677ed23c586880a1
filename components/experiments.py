"""Where a repository's own things lie when DVC runs a stage in a checkout of its own.

`dvc exp run --queue` and `--temp` run in `.dvc/tmp/exps/...` below the repository, and remove it
afterwards: what has to stay, or to be shared, belongs beside the repository's own files.
"""

import contextlib
import fcntl
import logging
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger(__name__)

_CHECKOUTS = (".dvc", "tmp", "exps")
_TURN = Path(".dvc/tmp/hdrface-ray.lock")


def repository() -> Path:
    """Return the DVC repository of the working directory; without one, the directory itself."""
    here = Path.cwd()
    return _experimenting(here) or next(
        (folder for folder in (here, *here.parents) if (folder / ".dvc").is_dir()), here
    )


@contextlib.contextmanager
def turn() -> Iterator[None]:
    """Wait until no other experiment of this repository is in this block.

    Outside DVC's checkouts, nothing is waited for.
    """
    root = _experimenting(Path.cwd())
    if root is None:
        yield
        return
    with (root / _TURN).open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("waiting for the stage of another experiment on this machine")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _experimenting(folder: Path) -> Path | None:
    """Return the repository of an experiment's checkout."""
    parts = folder.parts
    for start in range(1, len(parts) - len(_CHECKOUTS)):
        if parts[start : start + len(_CHECKOUTS)] == _CHECKOUTS:
            return Path(*parts[:start])
    return None
