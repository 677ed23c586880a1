"""Share networks with workers: they come from the data root, once per machine.

The process that starts a stage calls `share` and sends its result to workers; a worker asks that
for a path on its own machine. Without a data root, it is the path itself.
"""

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from components.hashes import sha256_of
from components.storage import Storage, data_root
from components.stores import stores
from components.weights.manifest import DESCRIPTIONS, MANIFEST, RESTORER, RESULTS, Description
from components.weights.store import closure, enter, replaced_by, without


@dataclass(frozen=True)
class SharedFolder:
    """Weights or a trained folder, with all that it names; it can be sent to workers."""

    path: Path  # on the machine that shared it
    fingerprint: str
    place: Storage | None  # ROOT/store

    def local(self) -> Path:
        """Return the folder on this machine; `open_weights` or `open_model` verify it there.

        Raises: FileNotFoundError if it is no longer in the data root.
        """
        if self.place is None:
            return self.path
        if self.place.is_folder:
            return Path(self.place.url) / self.fingerprint
        return _fetch(self.place, self.fingerprint)


@dataclass(frozen=True)
class SharedFile:
    """A single file, named by the hash of its content; it can be sent to workers."""

    path: Path
    sha256: str
    place: Storage | None  # ROOT/files

    def local(self) -> Path:
        """Return the file on this machine. Raises: FileNotFoundError as for a folder."""
        if self.place is None:
            return self.path
        if self.place.is_folder:
            return Path(self.place.url) / self.sha256
        target = stores()[0] / "files" / self.sha256
        with _alone(target):
            if not target.is_file() or sha256_of(target) != self.sha256:
                partial = target.with_name(f"{target.name}.partial")
                self.place.get(self.sha256, partial)
                partial.replace(target)
        return target


def share(folder: Path, hints: Sequence[Path] = ()) -> SharedFolder:
    """Copy a folder, with all that it names, to where workers find it, unless it is there.

    `hints` are places where what it names may lie (see `components.weights.store`).

    Raises: FileNotFoundError or ValueError naming the first wrong file.
    """
    fingerprint = Description.read(folder).fingerprint
    root = data_root()
    if root is None:
        return SharedFolder(folder.absolute(), fingerprint, None)
    place = root / "store"
    if not _is_shared(place, Description.read(folder)):
        for description, files in closure(folder, hints):
            target = place / description.fingerprint
            there = target.sizes()
            for relative, source in files.items():
                if there.get(relative) != description.files[relative].bytes:
                    target.add(source, relative)
            target.put(description.file, description.file.name)  # last: it says that all is there
    return SharedFolder(folder.absolute(), fingerprint, place)


def share_file(file: Path) -> SharedFile:
    """Copy a file to where workers find it. Raises: OSError if it cannot be read."""
    digest = sha256_of(file)
    root = data_root()
    if root is None:
        return SharedFile(file.absolute(), digest, None)
    place = root / "files"
    if place.size(digest) != file.stat().st_size:
        place.put(file, digest)
    return SharedFile(file.absolute(), digest, place)


def _is_shared(place: Storage, description: Description) -> bool:
    """Return whether a folder is there as a whole; weights may lack what their owner replaces."""
    there = (place / description.fingerprint).sizes()
    if description.file.name not in there:
        return False
    return all(there.get(name) == record.bytes for name, record in description.files.items())


def _fetch(place: Storage, fingerprint: str, replaced: Collection[str] = ()) -> Path:
    """Copy what a folder names, and then the folder, into this machine's store."""
    target = stores()[0] / fingerprint
    with _alone(target), tempfile.TemporaryDirectory() as folder:
        if (target / RESTORER).is_file():  # entered after all that it names
            return target
        if (target / MANIFEST).is_file():
            description = Description.read(target)
        else:
            description = _description(place / fingerprint, Path(folder))
        for role, need in description.needs.items():
            if role != RESULTS:
                _fetch(place, str(need["fingerprint"]), replaced_by(description, role))
        files = {name: Path(name) for name in without(description.files, replaced)}
        return enter(
            target.parent,
            description,
            files,
            lambda source, copy: (place / fingerprint).get(source.as_posix(), copy),
        )


def _description(there: Storage, folder: Path) -> Description:
    for name in DESCRIPTIONS:
        with contextlib.suppress(FileNotFoundError):
            (folder / name).write_bytes(there.read(name))
            return Description.read(folder)
    raise FileNotFoundError(
        f"{there.url} holds no {' or '.join(DESCRIPTIONS)}: run the stage again"
    )


@contextlib.contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Hold the lock on `target` in the block: other processes of this machine wait."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(target.with_name(f"{target.name}.lock"), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
