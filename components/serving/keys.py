"""API keys: a client that has one may send requests.

The file holds names and SHA-256 hashes, never a key. A key has 256 random bits, so a plain hash is
safe: no list of likely keys can be tried against it.

    {"anna": {"sha256": "9f86...", "made": "2026-01-31T09:00:00+00:00", "expires": "..."}}

A key without `expires` is valid until it is removed.
"""

import hashlib
import hmac
import json
import os
import secrets
import tempfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

_PREFIX = "hdrface-"  # so that a leaked key is recognised
_RANDOM_BYTES = 32
_NEVER = "9999-12-31T00:00:00+00:00"


class Keys:
    """The keys of a file; the file is read again when it has changed."""

    def __init__(self, file: Path, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._file, self._now = file, now
        self._stamp: tuple[int, int] | None = None
        self._entries: dict[str, dict[str, str]] = {}

    def owner(self, key: str) -> str | None:
        """Return the owner of a valid key. A wrong key takes as long as a right one."""
        self._refresh()
        given = _hash(key)
        found = None
        for name, entry in self._entries.items():
            if hmac.compare_digest(given, entry["sha256"]):
                found = name
        if found is None or self._is_over(self._entries[found]):
            return None
        return found

    def _is_over(self, entry: Mapping[str, str]) -> bool:
        return "expires" in entry and self._now() >= datetime.fromisoformat(entry["expires"])

    def _refresh(self) -> None:
        try:
            status = self._file.stat()
        except FileNotFoundError:
            self._entries, self._stamp = {}, None
            return
        stamp = (status.st_mtime_ns, status.st_ino)
        if stamp != self._stamp:
            self._entries = read(self._file)
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


def add(file: Path, name: str, *, days: float | None = None) -> str:
    """Make a key, store its hash under a name, and return the key; it is not stored.

    It expires after `days`; None: it does not.

    Raises: ValueError if the name is taken.
    """
    entries = read(file)
    if name in entries:
        raise ValueError(f"{file} has a key for {name!r} already: remove it, or use another name")
    key = _PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
    now = datetime.now(UTC)
    entry = {"sha256": _hash(key), "made": now.isoformat(timespec="seconds")}
    if days is not None:
        entry["expires"] = (now + timedelta(days=days)).isoformat(timespec="seconds")
    _write(file, {**entries, name: entry})
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
    if not isinstance(entry, dict) or not isinstance(entry.get("sha256"), str):
        return False
    try:  # a time without a zone cannot be compared
        return datetime.fromisoformat(entry.get("expires", _NEVER)).tzinfo is not None
    except (TypeError, ValueError):
        return False


def _write(file: Path, entries: Mapping[str, Mapping[str, str]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    # Only its owner can read it, from the first byte on.
    descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}-")
    with os.fdopen(descriptor, "w") as temporary:
        json.dump(entries, temporary, indent=1)
    Path(name).replace(file)
