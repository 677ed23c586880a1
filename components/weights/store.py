"""Where networks lie on this machine, and how to copy them to another.

A store (`components.stores`) is a folder of folders, each named by its fingerprint. A network that
is named by its fingerprint lies beside its owner or in a store.
"""

import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from components.files import copy
from components.stores import STORE_VARIABLE, stores
from components.weights.manifest import (
    INT8_CHECK,
    MANIFEST,
    RESTORER,
    RESULTS,
    Description,
    FileRecord,
    Manifest,
    check,
)

NEEDS = "needs"  # of a trained folder that carries what it names: needs/FINGERPRINT/
Put = Callable[[Path, Path], object]  # copy or link: (source, target)
Closure = Sequence[tuple[Description, Mapping[str, Path]]]  # as `closure` gives it


@dataclass(frozen=True)
class WeightsFolder:
    """Verified pretrained weights; `root` is the folder of the published layout (`vae/`, …)."""

    name: str
    fingerprint: str
    root: Path
    licence: str
    manifest: Manifest

    def path(self, relative: str) -> Path:
        """Return a file or folder of the layout. Raises: FileNotFoundError if there is none."""
        path = self.root / relative
        known = any(
            name == relative or name.startswith(f"{relative}/") for name in self.manifest.files
        )
        if not known or not path.exists():
            parts = sorted({name.split("/")[0] for name in self.manifest.files})
            raise FileNotFoundError(
                f"the weights {self.name!r} hold no {relative!r}, only {', '.join(parts)}: "
                f"run 'dvc repro weights@{self.name}' with parameters that include it"
            )
        return path


def open_weights(
    folder: Path, *, replaced: Collection[str] = (), every_byte: bool = False
) -> WeightsFolder:
    """Open a folder of weights, such as `data/weights/sd21`, and verify every file of it.

    Parts in `replaced`, folders of the layout, are not looked at: the caller has its own. Large
    files that this machine has read before are read again only if they have changed since, or with
    `every_byte`.

    Raises: FileNotFoundError or ValueError naming the first wrong file and a remedy.
    """
    if not (folder / MANIFEST).is_file():
        raise FileNotFoundError(
            f"{folder / MANIFEST} is missing: run 'dvc repro weights@{folder.name}'"
        )
    manifest = Manifest.read(folder)
    files = without(manifest.files, replaced)
    root = _root(folder, manifest, files)
    remake = f"run 'dvc repro --force weights@{manifest.name}'"
    check(root, files, remedy=remake, every_byte=every_byte)
    if (
        fingerprint := Description.read(folder, MANIFEST).computed_fingerprint()
    ) != manifest.fingerprint:
        raise ValueError(
            f"{folder / MANIFEST} calls itself {manifest.fingerprint}, "
            f"but its files are {fingerprint}: {remake}"
        )
    return WeightsFolder(manifest.name, manifest.fingerprint, root, manifest.licence, manifest)


def open_model(folder: Path, *, every_byte: bool = False) -> Description:
    """Read a trained folder's description after verifying every file of it.

    Large files are read as by `open_weights`.

    Raises: FileNotFoundError or ValueError naming the first wrong file.
    """
    description = Description.read(folder, RESTORER)
    remedy = "copy the folder again from where it was trained, or train it again with 'dvc repro'"
    check(folder, description.files, remedy=remedy, every_byte=every_byte)
    if (fingerprint := description.computed_fingerprint()) != description.fingerprint:
        raise ValueError(
            f"{folder} calls itself {description.fingerprint}, "
            f"but its content is {fingerprint}: {remedy}"
        )
    return description


def find(fingerprint: str, hints: Iterable[Path] = ()) -> Path:
    """Find the folder with this fingerprint: one of the hints, otherwise in a store.

    Only descriptions are read here; `open_weights` and `open_model` verify the files.

    Raises: FileNotFoundError that lists every place that was tried and what was there.
    """
    tried = []
    for folder in [*hints, *(store / fingerprint for store in stores())]:
        try:
            found = Description.read(folder).fingerprint
        except (FileNotFoundError, ValueError) as error:
            tried.append(str(error))
            continue
        if found == fingerprint:
            return folder
        tried.append(f"{folder} is {found}")
    listed = "".join(f"\n  {line}" for line in tried)
    raise FileNotFoundError(
        f"nothing with fingerprint {fingerprint} was found; tried{listed}\n"
        f"copy it to {stores()[0] / fingerprint}, or set {STORE_VARIABLE} to the store with it"
    )


def find_need(folder: Path, need: Mapping[str, Any], hints: Sequence[Path] = ()) -> Path:
    """Find what a trained folder names in `needs`: {name, fingerprint, hint}.

    It looks at the caller's hints, the folder's own hint (relative to it or to the working
    directory), beside the folder under the fingerprint, and in the stores.
    """
    fingerprint = str(need["fingerprint"])
    own = [folder / need["hint"], Path(need["hint"])] if need.get("hint") else []
    return find(fingerprint, [*hints, *own, folder.parent / fingerprint])


def bring(
    folder: Path, store: Path, hints: Sequence[Path] = (), *, put: Put = shutil.copyfile
) -> Path:
    """Copy a trained folder or weights, with all that they name, into a store; return the place.

    The store can then be copied to another machine as it is. Everything is verified first.
    """
    place = store
    for description, files in closure(folder, hints):
        place = enter(store, description, files, put)
    return place


def closure(
    folder: Path, hints: Sequence[Path] = (), *, replaced: Collection[str] = ()
) -> Iterator[tuple[Description, Mapping[str, Path]]]:
    """Verify what a folder names, what that names, and last the folder; return them in this order.

    Each comes as its description and the places of its files. Weights come without the parts in
    `replaced`, folders of the layout: those that a trained folder has of its own.

    Raises: FileNotFoundError or ValueError naming the first wrong file.
    """
    description = Description.read(folder)
    root = folder
    if description.file.name == MANIFEST:
        root = open_weights(folder, replaced=replaced).root
    else:
        open_model(folder)
        for role, need in description.needs.items():
            if role != RESULTS:
                own = replaced_by(description, role)
                yield from closure(find_need(folder, need, hints), hints, replaced=own)
    yield description, {name: root / name for name in without(description.files, replaced)}


def replaced_by(trained: Description, role: str) -> frozenset[str]:
    """Return the parts of what a trained folder names that it has of its own.

    A generator that was trained in full (`unet/`, `transformer/`) replaces the backbone's.
    """
    own = {name.partition("/")[0] for name in trained.files if "/" in name}
    return frozenset(own) if role == "backbone" else frozenset()


def without(files: Mapping[str, FileRecord], replaced: Collection[str]) -> dict[str, FileRecord]:
    """Leave out the files of some parts."""
    return {
        name: record for name, record in files.items() if name.partition("/")[0] not in replaced
    }


def packed(closure: Closure) -> Iterator[tuple[str, Path]]:
    """List the files of one folder that restores alone: (place in it, where the file lies now).

    The trained folder's files keep their places; what it names goes to `needs/FINGERPRINT/`.
    """
    trained, _ = closure[-1]
    for description, files in closure:
        is_trained = description.fingerprint == trained.fingerprint
        place = "" if is_trained else f"{NEEDS}/{description.fingerprint}/"
        for relative, file in files.items():
            yield f"{place}{relative}", file
        yield f"{place}{description.file.name}", description.file
        for name, note in _notes(description).items():
            yield f"{place}{name}", note


def _notes(description: Description) -> dict[str, Path]:
    """Return what is noted about a folder in itself: files that it goes without."""
    note = description.file.with_name(INT8_CHECK)
    return {INT8_CHECK: note} if note.is_file() else {}


def carried(folder: Path) -> tuple[Path, ...]:
    """List the folders that a trained folder carries with it: what `packed` put below `needs/`."""
    return tuple(sorted(folder.glob(f"{NEEDS}/*")))


def link(folder: Path, layout: Path) -> Path:
    """Add published weights to this machine's store, as links to the files in `layout`.

    What lies beside the manifest (the text condition) is copied, since `folder` may move.
    """
    description = Description.read(folder, MANIFEST)
    beside = {name: folder / name for name in description.files if (folder / name).is_file()}
    files = {name: beside.get(name, layout / name) for name in description.files}

    def put(source: Path, target: Path) -> None:
        if source.is_relative_to(folder):
            shutil.copyfile(source, target)
        else:
            target.symlink_to(source.resolve())

    return enter(stores()[0], description, files, put)


def enter(store: Path, description: Description, files: Mapping[str, Path], put: Put) -> Path:
    """Make `store/FINGERPRINT` of a description and the places of its files; return it.

    Of weights, some files may be missing there (see `closure`). In a folder that is there already,
    files that are missing or damaged are put in their place, one by one: others may be reading.
    Its notes are copied, unless it has some.
    """
    target = store / description.fingerprint
    if not (target / description.file.name).is_file():
        _make(target, description, files, put)
    for relative, source in files.items():
        if not _is_intact(target, relative, description):
            beside = target / f".{uuid4().hex}.partial"
            try:
                put(source, beside)
                (target / relative).parent.mkdir(parents=True, exist_ok=True)
                beside.replace(target / relative)
            finally:
                beside.unlink(missing_ok=True)
    for name, note in _notes(description).items():
        if not (target / name).is_file():
            copy(note, target / name)
    return target


def _make(target: Path, description: Description, files: Mapping[str, Path], put: Put) -> None:
    partial = target.with_name(f"{target.name}.{uuid4().hex}.partial")
    for relative, source in files.items():
        (partial / relative).parent.mkdir(parents=True, exist_ok=True)
        put(source, partial / relative)
    shutil.copyfile(description.file, partial / description.file.name)
    if target.exists():  # without a description it is nobody's
        shutil.rmtree(target)
    try:
        partial.rename(target)
    except OSError:  # another process has added the same content
        shutil.rmtree(partial)
        if not (target / description.file.name).is_file():
            raise


def _is_intact(folder: Path, relative: str, description: Description) -> bool:
    try:
        check(folder, {relative: description.files[relative]}, remedy="")
    except (FileNotFoundError, ValueError):
        return False
    return True


def _root(folder: Path, manifest: Manifest, files: Iterable[str]) -> Path:
    """Find the first place that holds all these files of the manifest."""
    places = [folder, *(store / manifest.fingerprint for store in stores())]
    for place in places:
        if all((place / relative).is_file() for relative in files):
            return place
    missing = next(name for name in sorted(files) if not (folder / name).is_file())
    remedy = {
        "stand-in": f"run 'dvc repro --force weights@{manifest.name}'",
        "published": f"run 'python -m pipelines.weights {manifest.name}', which fetches it",
    }
    raise FileNotFoundError(
        f"{missing} of the weights {manifest.name!r} lies in none of "
        f"{', '.join(map(str, places))}: {remedy[manifest.kind]}"
    )
