"""Small files, written as a whole or not at all."""

import hashlib
import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any


def beside(file: Path) -> Path:
    """Return where a file is written before it is moved to its place: a hidden name beside it.

    The name is short, for the file's own may be as long as names can be.
    """
    digest = hashlib.sha256(os.fsencode(file.name)).hexdigest()[:16]
    return file.with_name(f".{digest}.{os.getpid()}")


def write_bytes(file: Path, data: bytes) -> None:
    """Write a file beside its place and move it there; folders above it are made."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = beside(file)
    try:
        partial.write_bytes(data)
        partial.replace(file)
    finally:
        _remove(partial)


def copy(file: Path, target: Path) -> None:
    """Copy a file's bytes as a whole; folders above the target are made."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = beside(target)
    try:
        shutil.copyfile(file, partial)
        partial.replace(target)
    finally:
        _remove(partial)


def link(file: Path, target: Path) -> None:
    """Make `target` the same file, as a whole: a hard link, or a copy on another file system.

    Neither may be written in place afterwards. Folders above the target are made. What a symbolic
    link leads to is linked, since the link itself may be moved or lead nowhere later.
    """
    file = file.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = beside(target)
    try:
        try:
            os.link(file, partial)
        except OSError:
            shutil.copyfile(file, partial)
        partial.replace(target)
    finally:
        _remove(partial)  # which a link to the same file survives


def write_text(file: Path, text: str) -> None:
    """Write UTF-8 text as `write_bytes` does."""
    write_bytes(file, text.encode())


def write_json(file: Path, value: Any, *, indent: int = 1, sort_keys: bool = False) -> None:
    """Write readable JSON, with a line end, as `write_bytes` does.

    Raises: ValueError if a number is not finite: JSON has no way to say it.
    """
    text = json.dumps(
        value, indent=indent, sort_keys=sort_keys, ensure_ascii=False, allow_nan=False
    )
    write_text(file, f"{text}\n")


def _remove(partial: Path) -> None:
    """Remove what was not moved to its place; what went wrong before says more than a failure."""
    with suppress(OSError):
        partial.unlink()
