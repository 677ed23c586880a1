"""API keys: a client that has one may send requests.

The file holds names and SHA-256 hashes, never a key. A key has 256 random bits, so a plain hash is
safe: no list of likely keys can be tried against it.

    {"anna": {"sha256": "9f86...", "made": "2026-01-31T09:00:00+00:00"}}
"""

import hashlib
import hmac
import json
import os
import secrets
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_PREFIX = "hdrface-"  # so that a leaked key is recognised
_RANDOM_BYTES = 32


class Keys:
    """The keys of a file; the file is read again when it has changed."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._stamp: tuple[int, int] | None = None
        self._hashes: dict[str, str] = {}

    def owner(self, key: str) -> str | None:
        """Return the owner of a key. A wrong key takes as long as a right one."""
        self._refresh()
        given = _hash(key)
        found = None
        for name, expected in self._hashes.items():
            if hmac.compare_digest(given, expected):
                found = name
        return found

    def _refresh(self) -> None:
        try:
            status = self._file.stat()
        except FileNotFoundError:
            self._hashes, self._stamp = {}, None
            return
        stamp = (status.st_mtime_ns, status.st_ino)
        if stamp != self._stamp:
            self._hashes = {name: entry["sha256"] for name, entry in read(self._file).items()}
            self._stamp = stamp


def read(file: Path) -> dict[str, dict[str, str]]:
    """Return the entries of a file by name; none if there is no file.

    Raises: ValueError naming the file if it is not a file of keys.
    """
    try:
        entries = json.loads(file.read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(f"{file} is not a file of API keys: {error}") from error
    if not isinstance(entries, dict) or not all(map(_is_entry, entries.values())):
        raise ValueError(f"{file} is not a file of API keys: make one with 'hdrface keys add NAME'")
    return entries


def add(file: Path, name: str) -> str:
    """Make a key, store its hash under a name, and return the key; it is not stored.

    Raises: ValueError if the name is taken.
    """
    entries = read(file)
    if name in entries:
        raise ValueError(f"{file} has a key for {name!r} already: remove it, or use another name")
    key = _PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
    made = datetime.now(UTC).isoformat(timespec="seconds")
    _write(file, {**entries, name: {"sha256": _hash(key), "made": made}})
    return key


def remove(file: Path, name: str) -> None:
    """Remove a key; running servers refuse it from then on.

    Raises: ValueError if no key has this name.
    """
    entries = read(file)
    if entries.pop(name, None) is None:
        raise ValueError(f"{file} has no key for {name!r}: 'hdrface keys list' shows them")
    _write(file, entries)


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("sha256"), str)


def _write(file: Path, entries: Mapping[str, Mapping[str, str]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    # Only its owner can read it, from the first byte on.
    descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}-")
    with os.fdopen(descriptor, "w") as temporary:
        json.dump(entries, temporary, indent=1)
    Path(name).replace(file)
