"""Jobs: work that takes longer than a request. An album of pictures, or a video.

All that a job needs lies in a storage (`components.serving.job_files`), so that any process may go
on with it. One process works on the jobs. They take turns, file by file, so that a short one need
not wait for a long one.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import time
from collections.abc import Callable, Coroutine
from pathlib import PurePath
from typing import Any, Protocol, TypeVar

from components.serving import job_files
from components.serving.job_files import Job, JobFile, Order, Result
from components.serving.params import JobLimits
from components.serving.refusal import Refusal
from components.storage import Storage

T = TypeVar("T")

log = logging.getLogger(__name__)

_AT_ONCE = 4  # files of all jobs together
_CLEAN_EVERY_S = 30.0
_AGAIN_AFTER_S = 5.0  # when the storage does not answer


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
        self._jobs = await asyncio.to_thread(job_files.load, self._storage)
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
            await asyncio.to_thread(job_files.write, self._storage / id_, job, order)
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

    async def _work(self, id_: str, job: Job) -> None:
        folder = self._storage / id_
        for number in range(len(job.names)):
            while number not in job.results and id_ in self._jobs:
                async with self._places:
                    await self._try(id_, job, number)
        if id_ not in self._jobs:
            return
        job.progress, done = "", self._now()
        job.done = done
        await _again(lambda: job_files.finish(folder, done))

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
                await _again(lambda: job_files.keep(folder, number, result, restored))
                job.results[number] = result
        except FileNotFoundError:  # deleted by hand, or the job was
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
        job = self._jobs.pop(id_, None)
        if job is None:
            return  # somebody else deletes it
        try:
            await asyncio.to_thread(job_files.delete, self._storage / id_)
        except OSError:
            self._jobs[id_] = job
            raise

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        # In its own context: Serve takes a task for a part of the request that started it, and
        # cancels it when that request's client leaves.
        task = asyncio.create_task(work, context=contextvars.Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


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


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
