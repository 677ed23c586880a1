"""Jobs: work that takes longer than a request. An album of pictures, or a video.

All that a job needs lies in a storage, below its id, so that any process may go on with it:

    job.json    whose it is, its options, the names of its files; written last: then the job exists
    N.in, N.out file N as it came, and restored; N.in goes when the result is there
    N.json      what became of file N
    done.json   when the last one was finished; the job is kept for a stated time from then on

One process works on the jobs. Jobs take turns, file by file, so that a short one need not wait for
a long one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import PurePath
from typing import Any, Protocol, TypeVar

from components.serving.params import JobLimits
from components.serving.refusal import Refusal, Refused
from components.storage import Storage

T = TypeVar("T")

log = logging.getLogger(__name__)

_AT_ONCE = 4  # files of all jobs together
_CLEAN_EVERY_S = 30.0
_AGAIN_AFTER_S = 5.0  # when the storage does not answer
_JOB, _DONE = "job.json", "done.json"


@dataclass(frozen=True)
class Order:
    """What a client wants to have done."""

    owner: str
    options: Mapping[str, str]
    files: list[tuple[str, bytes]]  # name and content
    is_video: bool


@dataclass(frozen=True)
class JobFile:
    """A restored file."""

    name: str
    media_type: str
    data: bytes


@dataclass(frozen=True)
class Result:
    """What became of one file: a media type and a record, or why it was refused."""

    media_type: str | None = None
    suffix: str = ""
    num_bytes: int = 0
    record: Mapping[str, Any] | None = None
    error: Mapping[str, str] | None = None


@dataclass
class Job:
    """A job, as this process knows it."""

    owner: str
    made: float  # seconds since the epoch
    options: dict[str, str]
    names: list[str]
    sizes: list[int]  # bytes of each file as it came
    is_video: bool
    results: dict[int, Result] = field(default_factory=dict)
    done: float | None = None
    working: set[int] = field(default_factory=set)
    progress: str = ""  # within a video

    def num_bytes(self) -> int:
        waiting = [size for number, size in enumerate(self.sizes) if number not in self.results]
        return sum(waiting) + sum(result.num_bytes for result in self.results.values())


class Restores(Protocol):
    """Restores one file of a job."""

    async def __call__(
        self, job: Job, data: bytes, give_up_at: float, said: Callable[[str], None]
    ) -> tuple[Result, bytes]:
        """Return what became of the file, and its bytes, empty if it was refused.

        `said` is told how far it is; what that raises ends the work. Never raises on its own.
        """


class Jobs:
    """Keeps jobs in a storage and works on them; call `start` before anything else."""

    def __init__(
        self,
        storage: Storage,
        limits: JobLimits,
        restore: Restores,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._storage, self._limits, self._restore, self._now = storage, limits, restore, now
        self._jobs: dict[str, Job] = {}
        self._places = asyncio.Semaphore(_AT_ONCE)  # first come, first served: jobs take turns
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Take up the jobs of the storage. Raises: OSError if it cannot be read."""
        self._jobs = await asyncio.to_thread(_load, self._storage)
        for id_, job in self._jobs.items():
            if job.done is None:
                self._begin(self._work(id_, job))
        self._begin(self._clean_up())

    async def close(self) -> None:
        """Stop; another process may go on."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def add(self, id_: str, order: Order) -> dict[str, Any]:
        """Keep an order and begin it; asked again, return its state. Raises: Refusal."""
        if id_ in self._jobs:
            return await self.state(order.owner, id_)
        sizes = [len(data) for _, data in order.files]
        self._check_room(order.owner, sum(sizes))
        names = [name for name, _ in order.files]
        options = dict(order.options)
        job = Job(order.owner, self._now(), options, names, sizes, order.is_video)
        self._jobs[id_] = job  # takes up its room from now on
        try:
            await asyncio.to_thread(self._write, id_, job, order)
        except BaseException:
            del self._jobs[id_]
            raise
        self._begin(self._work(id_, job))
        return await self.state(order.owner, id_)

    async def state(self, owner: str, id_: str) -> dict[str, Any]:
        """Return how far a job is, for JSON. Raises: Refusal if the owner has no such job."""
        job = self._find(owner, id_)
        status = "running" if job.results or job.working else "waiting"
        return {
            "id": id_,
            "status": "finished" if job.done is not None else status,
            "made": _time(job.made),
            "expires": None if job.done is None else _time(job.done + self._limits.keep_s),
            "num_files": len(job.names),
            "num_finished": len(job.results),
            "progress": job.progress,
            "files": [self._file_state(id_, job, number) for number in range(len(job.names))],
        }

    async def file(self, owner: str, id_: str, number: int) -> JobFile:
        """Return a restored file. Raises: Refusal if there is none."""
        job = self._find(owner, id_)
        result = job.results.get(number)
        if result is None or result.media_type is None:
            raise Refusal(404, "no_such_file", f"job {id_} has no result {number}: see /v1/jobs/ID")
        data = await asyncio.to_thread((self._storage / id_).read, f"{number}.out")
        name = f"{PurePath(job.names[number]).stem or 'picture'}-restored{result.suffix}"
        return JobFile(name, result.media_type, data)

    async def remove(self, owner: str, id_: str) -> None:
        """End a job and delete its files. Raises: Refusal if the owner has no such job."""
        self._find(owner, id_)
        await self._delete(id_)

    def _find(self, owner: str, id_: str) -> Job:
        job = self._jobs.get(id_)
        if job is None or job.owner != owner:
            raise Refusal(404, "no_such_job", f"no job {id_[:40]!r}: results are kept for a time")
        return job

    def _file_state(self, id_: str, job: Job, number: int) -> dict[str, Any]:
        state: dict[str, Any] = {"name": job.names[number]}
        result = job.results.get(number)
        if result is None:
            return {**state, "status": "running" if number in job.working else "waiting"}
        if result.error is not None:
            return {**state, "status": "refused", "error": dict(result.error)}
        about = {"url": f"/v1/jobs/{id_}/files/{number}", "record": result.record}
        return {**state, "status": "restored", "media_type": result.media_type, **about}

    def _check_room(self, owner: str, num_bytes: int) -> None:
        own = [job for job in self._jobs.values() if job.owner == owner]
        if len(own) >= self._limits.max_jobs:
            reason = f"{len(own)} jobs are kept"
        elif sum(job.num_bytes() for job in own) + num_bytes > self._limits.kept_bytes:
            reason = f"with this one, jobs would hold more than {self._limits.max_mb:g} MB"
        else:
            return
        message = f"{reason}: delete one (DELETE /v1/jobs/ID), or wait until one expires"
        raise Refusal(429, "jobs_full", message, retry_after_s=60)

    def _write(self, id_: str, job: Job, order: Order) -> None:
        folder = self._storage / id_
        for number, (_, data) in enumerate(order.files):
            folder.write(f"{number}.in", data)
        kept = {name: getattr(job, name) for name in _KEPT}
        folder.write(_JOB, json.dumps(kept).encode())

    async def _work(self, id_: str, job: Job) -> None:
        folder = self._storage / id_
        for number in range(len(job.names)):
            while number not in job.results and id_ in self._jobs:
                async with self._places:
                    await self._try(id_, job, number)
        if id_ not in self._jobs:
            return
        job.done, job.progress = self._now(), ""
        await _again(lambda: folder.write(_DONE, json.dumps({"at": job.done}).encode()))

    async def _try(self, id_: str, job: Job, number: int) -> None:
        """Restore a file and keep the result, once the storage answers."""
        folder = self._storage / id_

        def said(progress: str) -> None:
            if id_ not in self._jobs:
                raise Refusal(404, "no_such_job", "the job was deleted")
            job.progress = progress

        job.working.add(number)
        try:
            data = await _again(lambda: folder.read(f"{number}.in"))
            give_up_at = job.made + self._limits.keep_s
            result, restored = await self._restore(job, data, give_up_at, said)
            if id_ in self._jobs:
                await _again(lambda: _keep(folder, number, result, restored))
                job.results[number] = result
        except FileNotFoundError:  # deleted meanwhile, by whom it belongs to
            lost = {"code": "failed", "message": "the file was lost: send it again"}
            job.results[number] = Result(error=lost)
        finally:
            job.working.discard(number)
        if id_ not in self._jobs:
            await asyncio.to_thread(folder.delete_all)

    async def _clean_up(self) -> None:
        """Delete what is older than the time that results are kept."""
        while True:
            for id_, job in list(self._jobs.items()):
                if job.done is not None and self._now() >= job.done + self._limits.keep_s:
                    with contextlib.suppress(OSError):  # the next turn tries again
                        await self._delete(id_)
            await asyncio.sleep(_CLEAN_EVERY_S)

    async def _delete(self, id_: str) -> None:
        folder = self._storage / id_
        # First what makes it a job: what is left of half a deletion is not taken up again.
        await asyncio.to_thread(folder.delete, _JOB)
        self._jobs.pop(id_, None)
        await asyncio.to_thread(folder.delete_all)

    def _begin(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


_KEPT = ("owner", "made", "options", "names", "sizes", "is_video")


def _keep(folder: Storage, number: int, result: Result, restored: bytes) -> None:
    if restored:
        folder.write(f"{number}.out", restored)
    folder.write(f"{number}.json", json.dumps(asdict(result)).encode())
    folder.delete(f"{number}.in")


def _load(storage: Storage) -> dict[str, Job]:
    """Read the jobs of a storage, and delete what was left of others. Raises: OSError."""
    found: dict[str, set[str]] = {}
    for path in storage.sizes():
        id_, _, name = path.partition("/")
        found.setdefault(id_, set()).add(name)
    jobs = {}
    for id_, names in found.items():
        folder = storage / id_
        if _JOB not in names:
            folder.delete_all()
            continue
        job = Job(**json.loads(folder.read(_JOB)))
        for number in range(len(job.names)):
            if f"{number}.json" in names:
                job.results[number] = Result(**json.loads(folder.read(f"{number}.json")))
        if _DONE in names:
            job.done = json.loads(folder.read(_DONE))["at"]
        jobs[id_] = job
    return jobs


async def _again(act: Callable[[], T]) -> T:
    """Run what asks the storage in a thread, until the storage answers."""
    while True:
        try:
            return await asyncio.to_thread(act)
        except FileNotFoundError:
            raise
        except OSError as error:
            log.warning("jobs wait for their storage: %s", error)
            await asyncio.sleep(_AGAIN_AFTER_S)


def refused(refusal: Refused) -> Result:
    """Return the result of a file that was refused."""
    return Result(error={"code": refusal.code, "message": refusal.message})


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
