"""Which files a test reads for their hashes."""

import hashlib
from pathlib import Path

import pytest


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """List the names of the files that were read for a hash, in order."""
    read: list[str] = []
    digest = hashlib.file_digest

    def noted(stream, kind):  # type: ignore[no-untyped-def]
        read.append(Path(stream.name).name)
        return digest(stream, kind)

    monkeypatch.setattr(hashlib, "file_digest", noted)
    return read
