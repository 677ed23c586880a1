"""SHA-256 of files: a large file is read once on a machine, until it changes.

    STORE/hashes/NAME    NAME: SHA-256 of the file's real path
                         content: the path, what `stat` said of the file, its SHA-256

A hash is taken from there if the path, the device, the inode, the size and both times (of content
and inode) are the same. Every entry is a file of its own and appears as a whole, so that processes
and machines that share a home need no lock. An entry that cannot be read or written costs time and
raises nothing.

What this cannot notice: bytes that a failing disk gives back differently, under an unchanged inode.
Whoever looks for that calls `read_sha256`, which reads every byte.
"""

import contextlib
import hashlib
import json
import os
import re
import time
from io import BufferedReader
from pathlib import Path

from components import files
from components.stores import stores

FOLDER = "hashes"
SMALLEST = 1 << 20  # bytes; a smaller file is hashed as fast as its entry is read
# A file may change again within one tick of its file system's clock and keep its times, as git
# knows of its index. The coarsest clock in use (FAT) ticks every 2 s.
_TICK_S = 2.0
_SHA256 = re.compile("[0-9a-f]{64}")


def sha256_of(file: Path) -> str:
    """Return the hex SHA-256 of a file: the remembered one, if the file is still the same.

    Raises: OSError if it cannot be opened or read.
    """
    with file.open("rb") as stream:
        known = _recall(file, os.fstat(stream.fileno()))
        return _read(file, stream) if known is None else known


def read_sha256(file: Path) -> str:
    """Return the hex SHA-256 of a file after reading every byte. Raises: as `sha256_of`."""
    with file.open("rb") as stream:
        return _read(file, stream)


def _read(file: Path, stream: BufferedReader) -> str:
    """Hash an open file, and remember the hash if the file was at rest meanwhile."""
    started, before = time.time(), os.fstat(stream.fileno())
    found = hashlib.file_digest(stream, "sha256").hexdigest()
    if before.st_size >= SMALLEST and before.st_mtime < started - _TICK_S:
        with contextlib.suppress(OSError):
            os.fsync(stream.fileno())  # otherwise a power cut may keep the entry and lose the bytes
            after = os.fstat(stream.fileno())
            if _state(after) == _state(before):
                _remember(file, after, found)
    return found


def _recall(file: Path, state: os.stat_result) -> str | None:
    if state.st_size < SMALLEST:
        return None
    path = _real(file)
    for folder in _folders():
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            entry = json.loads((folder / _name(path)).read_bytes())
            digest = str(entry["sha256"])
            is_same = [entry["path"], entry["state"]] == [path, _state(state)]
            if is_same and _SHA256.fullmatch(digest):
                return digest
    return None


def _remember(file: Path, state: os.stat_result, digest: str) -> None:
    """Write an entry into the first store that can be written."""
    path = _real(file)
    entry = {"path": path, "state": _state(state), "sha256": digest}
    for folder in _folders():
        with contextlib.suppress(OSError):
            files.write_json(folder / _name(path), entry)
            return


def _folders() -> list[Path]:
    try:
        return [store / FOLDER for store in stores()]
    except RuntimeError:  # a user without a home
        return []


def _state(state: os.stat_result) -> list[int]:
    return [state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns]


def _real(file: Path) -> str:
    """Return the path without links; bytes that are not UTF-8 become escapes, for JSON."""
    return os.fsencode(os.path.realpath(file)).decode("utf-8", "backslashreplace")


def _name(path: str) -> str:
    return hashlib.sha256(path.encode()).hexdigest()
