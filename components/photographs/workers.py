"""Several processes that restore the files of an album, each with its own model."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import cv2
import torch

from components import logs
from components.photographs.inputs import Job
from components.photographs.loading import given_pictures, load
from components.photographs.options import OutputOptions, RestoreOptions, Tools
from components.photographs.restoration import PhotographRestorer
from components.photographs.restore_files import restore_files
from components.photographs.results import Result
from components.restorers.by_folder import PicturesByName

log = logging.getLogger(__name__)

NamedJob = tuple[Job, str]  # with the name of its first restoration
_AT_ONCE = 8  # files that a process takes at once, at most, so that their faces fill a batch


@dataclass(frozen=True)
class Work:
    """What is done to each file; it can be sent to another process."""

    model: str
    tools: Tools
    options: RestoreOptions
    output: OutputOptions

    def open(self) -> OpenedWork:
        """Load the networks. Raises: ValueError or OSError if they cannot do what is asked."""
        with tempfile.TemporaryDirectory() as downloads:
            restorer = load(self.model, self.tools, Path(downloads))
        firsts = given_pictures(self.model, self.tools)
        restorer.check(self.options, are_given=firsts is not None)
        if restorer.detector is None and not self.options.aligned:
            raise ValueError(
                "photographs need a face detector: give --detector FILE (SCRFD or YuNet), or "
                "--aligned if each picture is one aligned face"
            )
        return OpenedWork(self, restorer, firsts)


class Restores(Protocol):
    """Restores files: this process, or several others."""

    size: int  # pixels of the square in which the model restores a face

    def restore(self, jobs: Sequence[NamedJob], earlier: Mapping[str, Any]) -> Iterator[Result]:
        """Give the result of each file as it is done."""
        ...

    def rest(self) -> Iterator[Result]:
        """Give the results that are under way when `restore` is stopped, perhaps some again."""
        ...


class OpenedWork:
    """The work with its networks, in this process."""

    def __init__(
        self, work: Work, restorer: PhotographRestorer, firsts: PicturesByName | None
    ) -> None:
        self._work, self._restorer, self._firsts = work, restorer, firsts
        self.size = restorer.restorer.size

    def restore(self, jobs: Sequence[NamedJob], earlier: Mapping[str, Any]) -> Iterator[Result]:
        return restore_files(
            jobs,
            self._work.output,
            self._restorer,
            self._work.options,
            firsts=self._firsts,
            batch_size=self._work.tools.batch_size,
            earlier=earlier,
        )

    def rest(self) -> Iterator[Result]:
        return iter(())


class Crew:
    """Processes that restore files in parallel.

    Each file's result is that of one process alone. A file whose process dies, of too little memory
    for instance, fails; the others are still restored.

    Raises: ValueError or OSError, as `Work.open`, when the block is entered.
    """

    def __init__(self, work: Work, number: int) -> None:
        self._work, self._number = work, number
        self._futures: dict[Future[list[Result]], int] = {}

    def __enter__(self) -> Self:
        self._pool = self._start(self._number)
        self.size = self._pool.submit(_size).result()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def restore(self, jobs: Sequence[NamedJob], earlier: Mapping[str, Any]) -> Iterator[Result]:
        at_once = max(1, min(_AT_ONCE, len(jobs) // (4 * self._number)))
        rest = [list(jobs[at : at + at_once]) for at in range(0, len(jobs), at_once)]
        while rest:
            done: set[int] = set()
            yield from self._try(rest, earlier, done)
            rest = [files for number, files in enumerate(rest) if number not in done]
            if rest:  # a process died: which of the files under way was its last is found out
                under_way, rest = rest[: 2 * self._number], rest[2 * self._number :]
                yield from self._one_by_one([one for files in under_way for one in files], earlier)

    def _try(
        self, rest: Sequence[list[NamedJob]], earlier: Mapping[str, Any], done: set[int]
    ) -> Iterator[Result]:
        self._futures = futures = dict[Future[list[Result]], int]()
        try:
            for number, files in enumerate(rest):
                futures[self._pool.submit(_restore, files, _of(files, earlier))] = number
            for future in as_completed(futures):
                results = future.result()
                done.add(futures[future])
                yield from results
        except BrokenProcessPool:
            for future, number in futures.items():
                if number not in done and future.done() and future.exception() is None:
                    done.add(number)
                    yield from future.result()
            self._pool.shutdown()
            self._pool = self._start(self._number)

    def rest(self) -> Iterator[Result]:
        under_way = [future for future in self._futures if not future.cancel()]
        for future in under_way:
            if future.exception() is None:
                yield from future.result()

    def _one_by_one(self, jobs: Sequence[NamedJob], earlier: Mapping[str, Any]) -> Iterator[Result]:
        for job in jobs:
            try:
                yield from self._pool.submit(_restore, [job], _of([job], earlier)).result()
            except BrokenProcessPool:
                reason = "the process that restored it died: it may need more memory"
                log.warning("%s failed: %s", job[0].source, reason)
                yield Result(str(job[0].source), None, "failed", reason)
                self._pool.shutdown()
                self._pool = self._start(self._number)

    def _start(self, number: int) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")  # a fork cannot use a GPU
        counter = context.Value("i", 0)
        return ProcessPoolExecutor(
            number, context, initializer=_begin, initargs=(self._work, number, counter)
        )


def _of(jobs: Sequence[NamedJob], earlier: Mapping[str, Any]) -> dict[str, Any]:
    """Return the records that these jobs may need: all of them are too many to send."""
    places = (str(place) for job, _ in jobs for place in (job.target, job.own))
    return {place: earlier[place] for place in places if place in earlier}


# In a process of the crew: its work, and that work once its networks are loaded.
_work: Work | None = None
_opened: OpenedWork | None = None


def _begin(work: Work, number: int, counter: Any) -> None:
    """Start a process: it leaves Ctrl-C to the first one, and takes its share of the machine."""
    global _work
    _work = work
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logs.configure()
    with counter.get_lock():
        own, counter.value = counter.value, counter.value + 1
    threads = max(1, (os.cpu_count() or 1) // number)
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    if num_gpus := torch.cuda.device_count():
        torch.cuda.set_device(own % num_gpus)


def _open() -> OpenedWork:
    global _opened
    assert _work is not None
    _opened = _opened or _work.open()
    return _opened


def _size() -> int:
    return _open().size


def _restore(jobs: list[NamedJob], earlier: dict[str, Any]) -> list[Result]:
    return list(_open().restore(jobs, earlier))
