"""Restore the faces of many photographs and videos into a folder.

The folder gets one file for each input, and `results.jsonl` with one line for each input: what was
done to it and to each of its faces.
"""

import json
import logging
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from components import files
from components.faces.cutter import MIN_SCORE
from components.faces.detect import open_detector
from components.faces.source import MAX_BYTES
from components.metrics.identity import IdentityAngle
from components.photographs import photograph
from components.photographs.background import SuperResolution, lanczos
from components.photographs.face_restorer import FaceRestorer
from components.photographs.inputs import Job, find_jobs
from components.photographs.options import OutputOptions, RestoreOptions, Tools
from components.photographs.photograph import Photograph
from components.photographs.records import PhotographRecord
from components.photographs.restoration import PhotographRestorer, Prepared, RestoredPhotograph
from components.photographs.video_encoders import Encoding
from components.photographs.video_info import probe
from components.photographs.video_restoration import VideoRecord, restore_video, result_files
from components.progress import Progress
from components.restorers.by_export import ExportRestorer
from components.restorers.by_folder import PicturesByName
from components.restorers.candidates import Candidates
from components.restorers.catalogue import FOLDER, path_of
from components.restorers.hdrface import HDRFace
from components.restorers.protocol import RestoresFaces
from components.tracking.trained_models import open_restorer
from components.weights.manifest import RESTORER
from components.weights.precision import Precision

log = logging.getLogger(__name__)

RESULTS = "results.jsonl"
# Limit on decoded photographs that wait until their faces fill a batch.
MAX_WAITING_PIXELS = 50_000_000
Status = Literal["restored", "unchanged", "skipped", "failed"]


@dataclass(frozen=True)
class Result:
    """What was done to one input; `record` is that of the photograph or video."""

    input: str
    output: str | None
    status: Status
    reason: str | None = None
    seconds: float | None = None  # from reading to writing, including the wait for a full batch
    record: Mapping[str, Any] | None = None


def run(
    inputs: Sequence[str],
    out: Path,
    model: str,
    tools: Tools,
    options: RestoreOptions,
    output: OutputOptions,
) -> tuple[list[Result], int]:
    """Restore photographs and videos into a folder, and write `results.jsonl` there.

    Args:
        inputs: files, folders (with all that is below them) and patterns.
        out: the folder for the results.
        model: a trained folder, models:/NAME@ALIAS, models:/NAME/VERSION or runs:/ID/model.
        tools: the other networks.
        options: how faces are restored.
        output: how results are written.

    Returns: one result for each input, and the width of the model's faces in pixels. If an input
    cannot be used, its result says so and the others are still restored.

    Raises: ValueError if an input or the model does not exist, two inputs have the same result
        file, a result would replace its input, or the options need what the tools cannot do.
    """
    jobs = find_jobs(inputs, out, output.format)
    with tempfile.TemporaryDirectory() as downloads:
        restorer = load(model, tools, Path(downloads))
    firsts = given_pictures(model, tools)
    restorer.check(options, are_given=firsts is not None)
    if restorer.detector is None and not options.aligned:
        raise ValueError(
            "photographs need a face detector: give --detector FILE (SCRFD or YuNet), or "
            "--aligned if each picture is one aligned face"
        )
    out.mkdir(parents=True, exist_ok=True)
    earlier = _earlier_records(out / RESULTS)
    done: list[Result] = []
    with (
        (out / RESULTS).open("w", encoding="utf-8") as lines,
        Progress("restore", "files", len(jobs)) as progress,
    ):
        for result in restore_files(
            [(job, _name(job, out)) for job in jobs],
            output,
            restorer,
            options,
            firsts=firsts,
            batch_size=tools.batch_size,
            earlier=earlier,
        ):
            done.append(result)
            lines.write(json.dumps(asdict(result), ensure_ascii=False) + "\n")
            lines.flush()
            progress.advance()
    return done, restorer.restorer.size


def load(model: str, tools: Tools, downloads: Path) -> PhotographRestorer:
    """Load the model and the other networks. Raises: ValueError or OSError naming what is wrong."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    detector, angle, upscale = None, None, lanczos
    if tools.detector is not None:
        detector = open_detector(tools.detector, min_score=MIN_SCORE)
    if tools.identity_network is not None:
        angle = IdentityAngle(tools.identity_network)
    if tools.upscaler is not None:
        upscale = SuperResolution(tools.upscaler, device=device)
    numbers: dict[str, Any] = {"device": torch.device(device), "precision": tools.precision}
    opened = open_restorer(model, downloads, **numbers)
    firsts = [open_restorer(name, downloads, **numbers) for name in _first_restorers(tools)]
    restorer = _building_on(opened, firsts, tools, angle)
    faces = FaceRestorer(restorer, batch_size=tools.batch_size)
    said = tools.model_dump_json(exclude={"batch_size"})
    return PhotographRestorer(faces, detector=detector, angle=angle, upscale=upscale, tools=said)


def _building_on(
    restorer: RestoresFaces,
    firsts: Sequence[RestoresFaces],
    tools: Tools,
    angle: IdentityAngle | None,
) -> RestoresFaces:
    """Let a model take first restorations from other restorers, or from several.

    Raises: ValueError if it cannot.
    """
    if tools.choose is not None and len(firsts) <= tools.candidates == 1:
        raise ValueError(
            "--choose is for several first restorations: set --candidates, or name several "
            "restorers with --intermediate"
        )
    if not firsts and tools.candidates == 1:
        return restorer
    if isinstance(restorer, HDRFace | ExportRestorer) and len(firsts) == tools.candidates == 1:
        restorer.build_on(firsts[0])
        return restorer
    if not isinstance(restorer, HDRFace):
        raise ValueError(
            f"{restorer.name} does not choose among first restorations: leave out --intermediate "
            "and --candidates"
        )
    own = [] if restorer.intermediate is None else [restorer.intermediate]
    return Candidates(
        restorer,
        firsts or own,
        draws=tools.candidates,
        choice=tools.choose or "gate",
        angle=angle,
    )


def _first_restorers(tools: Tools) -> list[str]:
    if tools.intermediate is None or _are_pictures(tools.intermediate):
        return []
    return tools.intermediate.split(",")


def given_pictures(model: str, tools: Tools) -> PicturesByName | None:
    """Return the first restorations that come with the photographs, if they do.

    Raises: ValueError or FileNotFoundError naming the folder if it holds none.
    """
    if tools.intermediate is not None and _are_pictures(tools.intermediate):
        if tools.candidates > 1:
            raise ValueError("--candidates needs a first restorer, and --intermediate has pictures")
        return PicturesByName(Path(tools.intermediate))
    if model.startswith(f"{FOLDER}:"):  # the results are the pictures themselves
        return PicturesByName(path_of(model))
    return None


def _are_pictures(intermediate: str) -> bool:
    folder = Path(intermediate)
    return folder.is_dir() and not (folder / RESTORER).is_file()


def _name(job: Job, out: Path) -> str:
    """Return an input's name below its folder, without suffix."""
    return job.target.relative_to(out).with_suffix("").as_posix()


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
        if output.skip_existing and (existing := _existing(job)):
            record = earlier.get(str(existing))
            reason = f"{existing} already exists"
            yield Result(str(job.source), str(existing), "skipped", reason, record=record)
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
        except (OSError, ValueError) as error:
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


def _existing(job: Job) -> Path | None:
    """Return the result of an earlier run."""
    results = [job.target] if job.format else result_files(job.source, job.target)
    return next((file for file in results if file.exists()), None)


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
        yield _write(one, restored, output.quality, restorer.restorer.precision)


def _restore_video(
    job: Job,
    restorer: PhotographRestorer,
    options: RestoreOptions,
    encoding: Encoding,
    *,
    are_given: bool,
) -> Result:
    if are_given:
        reason = "first restorations of a video cannot be given: name a first restorer"
        return _failed(job, ValueError(reason))
    began = time.monotonic()
    try:
        progress = Progress(job.source.name, "frames", probe(job.source).num_frames or 0)
        file, record = restore_video(
            job.source,
            job.target,
            restorer,
            options,
            encoding=encoding,
            on_frame=progress.advance,
        )
    except Exception as error:  # noqa: BLE001 - one bad file stops no other
        return _failed(job, error)
    return _done(replace(job, target=file), record, began, restorer.restorer.precision)


def _write(
    one: _Waiting, restored: RestoredPhotograph, quality: int, precision: Precision
) -> Result:
    job = one.job
    try:
        assert job.format is not None
        encoded = photograph.encode(restored.photograph, format=job.format, quality=quality)
        files.write_bytes(job.target, encoded)
    except (OSError, ValueError) as error:
        return _failed(job, error)
    return _done(job, restored.record, one.began, precision)


def _done(
    job: Job, record: PhotographRecord | VideoRecord, began: float, precision: Precision
) -> Result:
    return Result(
        input=str(job.source),
        output=str(job.target),
        status="restored" if record.num_restored else "unchanged",
        reason=record.note,
        seconds=round(time.monotonic() - began, 3),
        record={**asdict(record), "precision": precision},
    )


def _earlier_records(file: Path) -> dict[str, Any]:
    records: dict[str, Any] = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        try:
            result = json.loads(line)
        except json.JSONDecodeError:  # the last line of a run that was killed
            continue
        records[result["output"]] = result["record"]
    return records


def _failed(job: Job, error: Exception) -> Result:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    reason = reason or type(error).__name__
    log.warning("%s failed: %s", job.source, reason)
    return Result(str(job.source), None, "failed", reason)


def _read(file: Path) -> bytes:
    if (size := file.stat().st_size) > MAX_BYTES:
        raise ValueError(f"too large: {size:,} bytes, at most {MAX_BYTES:,}")
    return file.read_bytes()
