"""Small files, written as a whole or not at all."""

import json
import os
import shutil
from pathlib import Path
from typing import Any


def write_bytes(file: Path, data: bytes) -> None:
    """Write a file beside its place and move it there; folders above it are made."""
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        beside.write_bytes(data)
        beside.replace(file)
    finally:
        beside.unlink(missing_ok=True)


def link(file: Path, target: Path) -> None:
    """Make `target` the same file, as a whole: a hard link, or a copy on another file system.

    Neither may be written in place afterwards. Folders above the target are made. What a symbolic
    link leads to is linked, since the link itself may be moved or lead nowhere later.
    """
    file = file.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        try:
            os.link(file, beside)
        except OSError:
            shutil.copyfile(file, beside)
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)  # which a link to the same file survives


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
