"""What lies beside a table until it is complete: finished shards, their notes, and the lock.

    data/faces.partial.lock               held by the only process that may write data/faces
    data/faces.partial/FINGERPRINT-10/table  what will be renamed to data/faces
    data/faces.partial/FINGERPRINT-10/notes  one note per finished shard
    data/faces.partial/FINGERPRINT-10/open   files being written

DVC empties a stage's output before the stage runs, but not this folder: a rerun continues here.
The fingerprint is part of the path: a worker that outlives its stage cannot write into the table of
another fingerprint, and after the rename it finds no folder at all.

With a data root (`components.storage`), shards and notes lie there, data/faces has the manifest:

    ROOT/tables/FINGERPRINT                  the shards; the manifest last
    ROOT/tables/FINGERPRINT.partial          notes, until the manifest is there

Two runs that make the same table write the same bytes there, so neither waits for the other.
"""

import contextlib
import fcntl
import json
import os
import shutil
import socket
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from components.storage import Storage, local_folder, sync_folder
from components.tables import shards
from components.tables.shards import Made, Note

_DOOMED = ".discarded-"
_REQUESTS_AT_ONCE = 16  # to S3: they wait more than they work


class LockedError(RuntimeError):
    """Another process is writing the same output."""


@contextlib.contextmanager
def lock(out: Path) -> Iterator[None]:
    """Hold the lock on `out` in the block, as its only writer; it ends with the process.

    Raises: LockedError at once, naming the process that holds the lock.
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
    except (ValueError, KeyError):  # it has the lock, but has not yet written who it is
        who, hint = "another process", "wait until it has finished"
    return f"{out} is being written by {who}: {hint}"


@dataclass(frozen=True)
class Unfinished:
    """One table being made; light enough to be sent to workers."""

    folder: Path  # OUT.partial/FINGERPRINT-SHARDS
    run: str  # tries are counted per run
    shared: Storage | None = None  # ROOT/tables/FINGERPRINT

    @classmethod
    def resume(
        cls, out: Path, fingerprint: str, num_shards: int, root: Storage | None = None
    ) -> Self:
        """Open the unfinished table of this fingerprint; those of any other are discarded."""
        beside = _root(out)
        shared = None if root is None else root / "tables" / fingerprint
        found = cls(beside / f"{fingerprint}-{num_shards}", uuid.uuid4().hex, shared)
        if beside.is_dir():
            _empty(beside, keep=found.folder)
        for name in ("table", "notes", "open"):
            (found.folder / name).mkdir(parents=True, exist_ok=True)
        for left in (found.folder / "open").iterdir():
            left.unlink()
        return found

    @property
    def table(self) -> Storage:
        """Return where the shards are written."""
        return self.shared or self._local("table")

    @property
    def notes(self) -> Storage:
        return self._beside("notes")

    def _beside(self, name: str) -> Storage:
        if self.shared is None:
            return self._local(name)
        return replace(self.shared, url=f"{self.shared.url}.partial") / name

    def _local(self, name: str) -> Storage:
        return local_folder(self.folder / name, self.folder / "open")

    def count_try(self, index: int) -> int:
        """Return how often this run has begun to make a shard, this time included."""
        file, counts = f"{shards.shard_file(index)}.tries-{self.run}", self._beside("open")
        try:
            tries = int(counts.read(file)) + 1
        except FileNotFoundError:
            tries = 1
        counts.write(file, b"%d" % tries)
        return tries

    def keep(self, index: int, made: Made) -> Note:
        """Write one shard and then its note."""
        file = shards.shard_file(index)
        data, note = shards.encode(file, made)
        self.table.write(file, data)
        self.notes.write(_note_file(index), note.dumps())
        return note

    def note(self, index: int) -> Note | None:
        """Read the note of a shard if the shard is complete."""
        try:
            note = Note.loads(self.notes.read(_note_file(index)))
        except FileNotFoundError:
            return None
        return note if self.table.size(note.shard.file) == note.shard.bytes else None

    def kept(self) -> dict[int, Note]:
        """Read the notes of all complete shards, by their number."""
        names = {_note_file(index): index for index in range(self._num_shards)}
        there = [names[name] for name in self.notes.sizes() if name in names]
        with ThreadPoolExecutor(_REQUESTS_AT_ONCE) as pool:
            notes = dict(zip(there, pool.map(self.note, there), strict=True))
        return {index: note for index, note in notes.items() if note is not None}

    @property
    def _num_shards(self) -> int:
        return int(self.folder.name.rpartition("-")[2])

    def finish(self, out: Path, manifest_file: str, manifest: bytes) -> None:
        """Rename the table to `out`, which replaces an older one, and delete the rest."""
        if self.shared is not None:
            self.shared.write(manifest_file, manifest)
            replace(self.shared, url=f"{self.shared.url}.partial").delete_all()
        self._local("table").write(manifest_file, manifest)
        if out.exists():
            out.rename(self.folder / f"replaced-{uuid.uuid4().hex}")
        (self.folder / "table").rename(out)
        sync_folder(out.absolute().parent)
        discard(out)


def _note_file(index: int) -> str:
    return f"{shards.shard_file(index)}.json"


def discard(out: Path) -> None:
    """Delete the unfinished tables beside `out`."""
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
