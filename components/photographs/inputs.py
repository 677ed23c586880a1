"""Which photographs and videos people mean, and where the result of each goes."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from components.faces.source import READABLE as PHOTOGRAPHS
from components.photographs import video
from components.photographs.options import FileFormat
from components.photographs.photograph import SUFFIXES

_FORMATS: Mapping[str, FileFormat] = {
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".webp": "webp",
    ".png": "png",
}
_READABLE = (*PHOTOGRAPHS, *video.READABLE)


@dataclass(frozen=True)
class Job:
    """One input and where its result goes."""

    source: Path
    target: Path
    format: FileFormat | None  # None: a video


def find_jobs(inputs: Sequence[str], out: Path, asked: FileFormat | None) -> list[Job]:
    """List the inputs, and give each a file of its own in the folder `out`.

    Inputs are files, folders (with what is below them) and patterns. A photograph is written as
    `asked`, or else as its own name says, PNG for what is only read. What lies below a folder keeps
    its place there. Two that differ in their suffix alone keep that too: `a.jpg.png`.

    Raises: ValueError if an input means nothing, two would be written to one file, or one over
    itself.
    """
    found = [entry for name in inputs for entry in _found(name, out.resolve())]
    found = list(dict.fromkeys(found))  # named twice, restored once
    shared = Counter(place.with_suffix("") for _, place in found)
    jobs = []
    for source, place in found:
        wanted, suffix = _kind(source, asked)
        stem = place.with_suffix("")
        if shared[stem] > 1 and suffix != source.suffix:
            stem = place
        jobs.append(Job(source, out / f"{stem}{suffix}", wanted))
    for target, count in Counter(job.target for job in jobs).items():
        if count > 1:
            raise ValueError(f"{count} inputs would be written to {target}: restore them apart")
    sources = {job.source.resolve() for job in jobs}
    for job in jobs:
        if job.target.resolve() in sources:
            raise ValueError(f"{job.target} is an input: name another folder with -o")
    return jobs


def _kind(source: Path, asked: FileFormat | None) -> tuple[FileFormat | None, str]:
    """Give the format and the suffix that a result is written in; no format: it is a video."""
    suffix = source.suffix.lower()
    if suffix in video.READABLE:
        return None, source.suffix if suffix in video.WRITABLE else video.OTHERWISE
    if asked is None and suffix in _FORMATS:
        return _FORMATS[suffix], source.suffix
    return asked or "png", SUFFIXES[asked or "png"]


def _found(name: str, out: Path) -> list[tuple[Path, Path]]:
    """Give the files that an input means, each with its place below the output folder."""
    path = Path(name)
    if path.is_dir():
        below = sorted(
            file
            for file in path.rglob("*")
            # The results of a run before are no photographs to restore.
            if _is_readable(file, path) and out not in file.resolve().parents
        )
        if not below:
            raise ValueError(f"{name} holds no photograph or video ({', '.join(_READABLE)})")
        return [(file, file.relative_to(path)) for file in below]
    if path.exists():
        return [(path, Path(path.name))]
    if any(sign in name for sign in "*?["):
        matches = sorted(Path(match) for match in glob.glob(name, recursive=True))  # noqa: PTH207
        if files := [match for match in matches if match.is_file()]:
            return [(file, Path(file.name)) for file in files]
    raise ValueError(f"{name}: no such file or folder, and no file matches it")


def _is_readable(file: Path, root: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(root).parts)
    return file.suffix.lower() in _READABLE and not hidden and file.is_file()
