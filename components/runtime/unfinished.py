"""What waits beside a table until it is whole: finished shards, their notes, and who is writing.

    data/faces.partial.lock               held by the one process that may write data/faces
    data/faces.partial/IDENTITY-10/table  what will be renamed to data/faces
    data/faces.partial/IDENTITY-10/notes  one note a finished shard
    data/faces.partial/IDENTITY-10/open   files being written

DVC empties a stage's output before the stage runs, never this folder, so a rerun goes on here.
The identity is part of the path: a worker that outlives its stage cannot write into the table of
another identity, and after the rename it finds no folder at all.
"""

import contextlib
import fcntl
import json
import os
import shutil
import socket
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from components.runtime import shards
from components.runtime.shards import Made, Note

_DOOMED = ".discarded-"


class LockedError(RuntimeError):
    """Another process is writing the same output."""


@contextlib.contextmanager
def lock(out: Path) -> Iterator[None]:
    """Be the only writer of `out`; the kernel releases the lock when the process dies.

    Raises: LockedError, at once, naming the process that holds it.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    file = out.with_name(f"{out.name}.partial.lock")
    handle = _locked_handle(file, out)
    try:
        owner = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        os.truncate(handle, 0)
        os.pwrite(handle, json.dumps(owner).encode(), 0)
        yield
        file.unlink(missing_ok=True)  # while it is still held: see _locked_handle
    finally:
        os.close(handle)


def _locked_handle(file: Path, out: Path) -> int:
    while True:
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)  # not inherited by Ray's processes
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(handle, 1000, 0)
            os.close(handle)
            raise LockedError(_held_by(owner, out)) from None
        # The last holder may have removed the file between our open and our lock.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), file.stat()):
                return handle
        os.close(handle)


def _held_by(owner: bytes, out: Path) -> str:
    try:
        found = json.loads(owner)
        who = f"process {found['pid']} on {found['host']} (since {found['since']})"
        hint = f"wait until it has finished, or end it with 'kill {found['pid']}' and run again"
    except (ValueError, KeyError):  # it has the lock, and has not yet said who it is
        who, hint = "another process", "wait until it has finished"
    return f"{out} is being written by {who}: {hint}"


@dataclass(frozen=True)
class Unfinished:
    """The folder of one table being made; light, so that it travels to the workers."""

    folder: Path  # OUT.partial/IDENTITY-SHARDS

    @classmethod
    def resume(cls, out: Path, identity: str, num_shards: int) -> Self:
        """Go on with the shards of this identity; those of any other are discarded."""
        root = _root(out)
        found = cls(root / f"{identity}-{num_shards}")
        if root.is_dir():
            _empty(root, keep=found.folder)
        for folder in (found.table, found.notes, found.open):
            folder.mkdir(parents=True, exist_ok=True)
        for left in found.open.iterdir():
            left.unlink()
        return found

    @property
    def table(self) -> Path:
        return self.folder / "table"

    @property
    def notes(self) -> Path:
        return self.folder / "notes"

    @property
    def open(self) -> Path:
        return self.folder / "open"

    def count_try(self, index: int) -> int:
        """Count how often this run has begun to make a shard."""
        with (self.open / f"{shards.shard_file(index)}.tries").open("ab") as tries:
            tries.write(b".")
            return tries.tell()

    def keep(self, index: int, made: Made) -> Note:
        """Write one shard and then its note."""
        file = shards.shard_file(index)
        data, note = shards.encode(file, made)
        shards.write_atomically(self.table / file, data, beside=self.open)
        shards.write_atomically(self._note_file(index), note.dumps(), beside=self.open)
        return note

    def note(self, index: int) -> Note | None:
        """Give the note of a shard if the shard is whole."""
        try:
            note = Note.loads(self._note_file(index).read_bytes())
            size = (self.table / note.shard.file).stat().st_size
        except FileNotFoundError:
            return None
        return note if size == note.shard.bytes else None

    def finish(self, out: Path, manifest_file: str, manifest: bytes) -> None:
        """Rename the table to `out`, in place of an older one, and forget the rest."""
        shards.write_atomically(self.table / manifest_file, manifest, beside=self.open)
        if out.exists():
            out.rename(self.folder / f"replaced-{uuid.uuid4().hex}")
        self.table.rename(out)
        shards.sync_folder(out.absolute().parent)
        discard(out)

    def _note_file(self, index: int) -> Path:
        return self.notes / f"{shards.shard_file(index)}.json"


def discard(out: Path) -> None:
    """Forget whatever waits beside `out`."""
    root = _root(out)
    if root.is_dir():
        _empty(root)
        root.rmdir()


def _root(out: Path) -> Path:
    return out.absolute().with_name(f"{out.name}.partial")


def _empty(folder: Path, *, keep: Path | None = None) -> None:
    for entry in list(folder.iterdir()):
        if entry == keep:
            continue
        doomed = entry
        if _DOOMED not in entry.name:
            # Renamed first: a worker that still writes there loses its path at once.
            doomed = entry.rename(entry.with_name(f"{entry.name}{_DOOMED}{uuid.uuid4().hex}"))
        if doomed.is_dir() and not doomed.is_symlink():
            shutil.rmtree(doomed)
        else:
            doomed.unlink()
