"""Restore the faces of photographs and videos, one file after the other.

Each input gives one result, whatever happens to it: one bad file stops no other.
"""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from components import files
from components.console import printable
from components.faces.source import MAX_BYTES
from components.photographs import encoding, photograph
from components.photographs.face_restorer import FaceRestorer
from components.photographs.inputs import Job
from components.photographs.options import OutputOptions, RestoreOptions
from components.photographs.photograph import Photograph
from components.photographs.records import PhotographRecord, with_notes
from components.photographs.restoration import PhotographRestorer, Prepared, RestoredPhotograph
from components.photographs.results import Result
from components.photographs.video_encoders import Encoding
from components.photographs.video_info import probe
from components.photographs.video_restoration import VideoRecord, restore_video, result_files
from components.progress import Progress
from components.restorers.by_folder import PicturesByName

log = logging.getLogger(__name__)

# Limit on decoded photographs that wait until their faces fill a batch.
MAX_WAITING_PIXELS = 50_000_000
PREVIEW = "only a preview: faces were decoded roughly, by a tiny decoder"


def restore_files(
    jobs: Sequence[tuple[Job, str]],
    output: OutputOptions,
    restorer: PhotographRestorer,
    options: RestoreOptions,
    *,
    firsts: PicturesByName | None,
    batch_size: int,
    earlier: Mapping[str, Any],
) -> Iterator[Result]:
    """Restore one file after the other; a batch holds the faces of several photographs.

    Args:
        jobs: each with the name of its first restoration.
        output: how results are written.
        restorer: what restores them.
        options: how faces are restored.
        firsts: first restorations that are given.
        batch_size: of faces.
        earlier: maps the result files of a previous run to their records.
    """
    waiting: list[_Waiting] = []
    for job, name in jobs:
        if job.problem is not None:
            yield _failed(job, ValueError(job.problem))
            continue
        if output.skip_existing and (skipped := _skipped(job, earlier, restorer.restorer)):
            yield skipped
            continue
        if job.format is None:
            are_given = firsts is not None
            yield _restore_video(job, restorer, options, output.encoding, are_given=are_given)
            continue
        began = time.monotonic()
        try:
            taken = photograph.read(_read(job.source))
            first = None if firsts is None else firsts.read(name)
            waiting.append(_Waiting(job, taken, restorer.prepare(taken, options, first), began))
        except Exception as error:  # noqa: BLE001 - one bad file stops no other
            yield _failed(job, error)
        num_faces = sum(len(one.prepared.squares) for one in waiting)
        num_pixels = sum(one.photograph.pixels[..., 0].size for one in waiting)
        if num_faces >= batch_size or num_pixels >= MAX_WAITING_PIXELS:
            yield from _finish(waiting, output, restorer, options)
            waiting = []
    yield from _finish(waiting, output, restorer, options)


@dataclass(frozen=True)
class _Waiting:
    job: Job
    photograph: Photograph
    prepared: Prepared
    began: float


def _skipped(job: Job, earlier: Mapping[str, Any], faces: FaceRestorer) -> Result | None:
    """Return the line of a file that has a result; None if it has none, or only a preview."""
    if (existing := _existing(job)) is None:
        return None
    record = earlier.get(str(existing))
    if record is not None and record.get("preview") and not faces.is_preview:
        return None
    reason = f"{printable(existing)} already exists"
    return Result(str(job.source), str(existing), "skipped", reason, record=record)


def _existing(job: Job) -> Path | None:
    """Return the result of an earlier run."""
    source = job.source.absolute()
    results = [job.target] if job.format else result_files(job.source, job.target)
    for file in dict.fromkeys((*results, job.own)):
        with suppress(OSError):  # a name that is too long
            if file.exists() and file.absolute() != source:
                return file
    return None


def _finish(
    waiting: Sequence[_Waiting],
    output: OutputOptions,
    restorer: PhotographRestorer,
    options: RestoreOptions,
) -> Iterator[Result]:
    if not waiting:
        return
    try:
        together = restorer.restore_prepared(
            [(one.photograph, one.prepared) for one in waiting], options
        )
    except Exception as error:  # noqa: BLE001 - one of the photographs has caused it
        if len(waiting) > 1:
            for one in waiting:
                yield from _finish([one], output, restorer, options)
        else:
            yield _failed(waiting[0].job, error)
        return
    for one, restored in zip(waiting, together, strict=True):
        yield _write(one, restored, output, restorer, options)


def _restore_video(
    job: Job,
    restorer: PhotographRestorer,
    options: RestoreOptions,
    how: Encoding,
    *,
    are_given: bool,
) -> Result:
    if are_given:
        reason = "first restorations of a video cannot be given: name a first restorer"
        return _failed(job, ValueError(reason))
    began = time.monotonic()
    try:
        frames = probe(job.source).num_frames or 0
        progress = Progress(printable(job.source.name), "frames", frames)
        file, record = restore_video(
            job.source,
            job.target,
            restorer,
            options,
            encoding=how,
            on_frame=progress.advance,
        )
    except Exception as error:  # noqa: BLE001 - one bad file stops no other
        return _failed(job, error)
    return _done(job, file, record, began, restorer.restorer)


def _write(
    one: _Waiting,
    restored: RestoredPhotograph,
    output: OutputOptions,
    restorer: PhotographRestorer,
    options: RestoreOptions,
) -> Result:
    job, record, faces = one.job, restored.record, restorer.restorer
    try:
        if not record.num_restored and encoding.is_nothing_asked(one.photograph, options, output):
            files.copy(job.source, job.own)
            return _done(job, job.own, record, one.began, faces)
        assert job.format is not None
        written = encoding.write(
            restored.photograph,
            format=job.format,
            quality=output.quality,
            strip_metadata=output.strip_metadata,
            restored_by=faces.model if record.num_restored else None,
        )
        files.write_bytes(job.target, written.data)
    except Exception as error:  # noqa: BLE001 - one bad file stops no other
        return _failed(job, error)
    record = with_notes(record, written.notes)
    return _done(job, job.target, record, one.began, faces)


def _done(
    job: Job,
    file: Path,
    record: PhotographRecord | VideoRecord,
    began: float,
    faces: FaceRestorer,
) -> Result:
    notes = [PREVIEW] if faces.is_preview and record.num_restored else []
    note = "; ".join([*notes, *([record.note] if record.note else [])]) or None
    about = {"note": note, "precision": faces.precision, "preview": faces.is_preview}
    return Result(
        input=str(job.source),
        output=str(file),
        status="restored" if record.num_restored else "unchanged",
        reason=note,
        seconds=round(time.monotonic() - began, 3),
        record={**asdict(record), **about},
    )


def _failed(job: Job, error: Exception) -> Result:
    reason = _said(error) or type(error).__name__
    log.warning("%s failed: %s", job.source, reason)
    return Result(str(job.source), None, "failed", reason)


def _said(error: Exception) -> str:
    match error:
        case FileExistsError() | NotADirectoryError() if error.filename:
            return f"{error.filename} is no folder: remove it, or choose another folder with -o"
        case OSError() if error.strerror:
            return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def _read(file: Path) -> bytes:
    if (size := file.stat().st_size) > MAX_BYTES:
        raise ValueError(f"too large: {size:,} bytes, at most {MAX_BYTES:,}")
    return file.read_bytes()
