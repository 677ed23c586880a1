"""Which photographs and videos people mean, and where the result of each goes."""

from __future__ import annotations

import glob
import logging
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from components.console import printable
from components.image_files import kinds
from components.image_files.kinds import Kind
from components.photographs import video
from components.photographs.options import FileFormat
from components.photographs.photograph import SUFFIXES

log = logging.getLogger(__name__)

_FORMATS: Mapping[Kind | None, FileFormat] = {
    kinds.JPEG: "jpeg",
    kinds.PNG: "png",
    kinds.WEBP: "webp",
}
# The suffixes that a result of the same format keeps.
_KEPT: Mapping[FileFormat, tuple[str, ...]] = {
    "jpeg": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "png": (".png",),
    "webp": (".webp",),
}
_KNOWN = {*kinds.READABLE, *kinds.REFUSED, *video.READABLE}
_BY_SUFFIX = {suffix: kind for kind in kinds.KINDS for suffix in kind.suffixes}
_SHOWN = 5  # names in a message


@dataclass(frozen=True)
class Job:
    """One input and where its result goes."""

    source: Path
    target: Path
    format: FileFormat | None  # None: a video
    own: Path  # where it goes if it is copied as it is: under its own name
    problem: str | None = None  # why it cannot be restored


class _Found(NamedTuple):
    """A file that an input means."""

    file: Path
    place: Path  # below the output folder
    problem: str | None = None


def find_jobs(inputs: Sequence[str], out: Path, asked: FileFormat | None) -> list[Job]:
    """List the inputs, and give each a file of its own in the folder `out`.

    Inputs are files, folders (with what is below them) and patterns. A photograph is written as
    `asked`, or else as what it is, PNG for what is only read. What lies below a folder keeps its
    place there. Two that differ in their suffix alone keep that too: `a.jpg.png`. What cannot be
    restored has the reason in `problem`. What is neither a photograph nor a video is logged.

    Raises: ValueError if no input can be used: there is none of them, all are written to one
    file, or over themselves.
    """
    found: list[_Found] = []
    missing: list[str] = []
    for name in inputs:
        try:
            found += _found(name, out.resolve())
        except (ValueError, OSError) as error:
            missing.append(str(error))
            path = Path(name)
            found.append(_Found(path, Path(path.name or "."), str(error)))
    if len(missing) == len(inputs):
        raise ValueError("; ".join(missing))
    found = list(dict.fromkeys(found))  # named twice, restored once
    shared = Counter(_stem(one.place) for one in found)
    jobs = [_job(one, out, asked, is_shared=shared[_stem(one.place)] > 1) for one in found]
    apart = _kept_apart(jobs)
    named = [job.problem for job in apart if job.problem]
    if len(named) == len(jobs) and any(job.problem is None for job in jobs):
        raise ValueError("; ".join(dict.fromkeys(named)))
    return apart


def _job(found: _Found, out: Path, asked: FileFormat | None, *, is_shared: bool) -> Job:
    file, place, problem = found
    format_, suffix = _kind(file, asked)
    stem = place if is_shared and suffix != place.suffix else _stem(place)
    return Job(file, out / f"{stem}{suffix}", format_, out / place, problem)


def _kept_apart(jobs: Sequence[Job]) -> list[Job]:
    """Give a problem to those that would be written over each other, or over an input."""
    usable = [job for job in jobs if job.problem is None]
    wanted = Counter(file for job in usable for file in {job.target, job.own})
    sources = {job.source.resolve() for job in jobs}
    apart = []
    for job in jobs:
        if job.problem is None and wanted[job.target] > 1:
            many, where = wanted[job.target], printable(job.target)
            problem = f"{many} inputs would be written to {where}: restore them apart"
            job = replace(job, problem=problem)
        elif job.problem is None and _resolved(job.target) in sources:
            problem = f"{printable(job.target)} is an input: name another folder with -o"
            job = replace(job, problem=problem)
        apart.append(job)
    return apart


def _resolved(file: Path) -> Path:
    try:
        return file.resolve()
    except OSError:  # a name that is too long, or a link to itself
        return file.absolute()


def _stem(place: Path) -> Path:
    """Return a place without the suffix of a photograph or video."""
    return place.with_suffix("") if place.suffix.lower() in _KNOWN else place


def _kind(source: Path, asked: FileFormat | None) -> tuple[FileFormat | None, str]:
    """Give the format and the suffix that a result is written in; no format: it is a video."""
    suffix = source.suffix.lower()
    if suffix in video.READABLE:
        return None, source.suffix if suffix in video.WRITABLE else video.OTHERWISE
    if asked is not None:
        return asked, SUFFIXES[asked]
    format_ = _FORMATS.get(_content(source) or _BY_SUFFIX.get(suffix), "png")
    return format_, source.suffix if suffix in _KEPT[format_] else SUFFIXES[format_]


def _content(file: Path) -> Kind | None:
    """Return what a file is by its first bytes; None: nothing that is read, or unreadable."""
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            return None
        with file.open("rb") as opened:
            return kinds.of(opened.read(kinds.START))
    except OSError:
        return None


def _found(name: str, out: Path) -> list[_Found]:
    """Give the files that an input means. Raises: ValueError or OSError if it means none."""
    path = Path(name)
    if path.is_dir():
        if path.resolve() == out:
            raise ValueError(f"{printable(name)} is an input: name another folder with -o")
        below = list(_below(path, out))
        if not below:
            known = ", ".join((*kinds.READABLE, *video.READABLE))
            raise ValueError(f"{printable(name)} holds no photograph or video ({known})")
        return below
    if path.exists() or path.is_symlink():
        return [_Found(path, Path(path.name), _problem(path))]
    if any(sign in name for sign in "*?["):
        matches = (Path(match) for match in glob.glob(name, recursive=True))  # noqa: PTH207
        files = sorted(match for match in matches if not match.is_dir())
        if chosen := _chosen((file, Path(file.name)) for file in files):
            return chosen
    raise ValueError(f"{printable(name)}: no such file or folder, and no file matches it")


def _below(root: Path, out: Path) -> Iterator[_Found]:
    """Give what lies below a folder, without hidden files and the results of a run before."""
    closed: list[OSError] = []
    links: list[str] = []
    files: list[tuple[Path, Path]] = []
    for folder, folders, names in os.walk(root, onerror=closed.append):
        here = Path(folder)
        folders[:] = sorted(
            one for one in folders if one[:1] != "." and (here / one).resolve() != out
        )
        links += [printable(here / one) for one in folders if (here / one).is_symlink()]
        there = (here / name for name in names if name[:1] != ".")
        files += [(file, file.relative_to(root)) for file in there]
    if links:
        log.info("links to folders are inputs only if they are named: %s", ", ".join(links))
    yield from _chosen(sorted(files))
    for error in closed:
        place = Path(error.filename)
        yield _Found(place, place.relative_to(root), f"cannot be read: {error.strerror}")


def _chosen(files: Iterable[tuple[Path, Path]]) -> list[_Found]:
    """Take photographs and videos, by their name or what they hold; log what else is there."""
    chosen, others = [], []
    for file, place in files:
        if file.suffix.lower() in _KNOWN or _content(file) is not None:
            chosen.append(_Found(file, place, _problem(file)))
        else:
            others.append(printable(place))
    if others:
        more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
        named = f"{', '.join(others[:_SHOWN])}{more}"
        log.info("%d files are neither photographs nor videos: %s", len(others), named)
    return chosen


def _problem(file: Path) -> str | None:
    """Return why a file cannot be restored, as far as its name and kind tell; None: it may be."""
    try:
        mode = file.stat().st_mode
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if not stat.S_ISREG(mode):
        return "it is no file but a pipe, socket or device: copy what it holds to a file"
    if reason := kinds.REFUSED.get(file.suffix.lower()):
        return f"it is {reason}"
    return None
