"""What is kept of a job, below its id in a storage.

Any process may go on with a job from these files:

job.json    whose it is, its options, the names of its files; written last: then the job exists
N.in, N.out file N as it came, and restored; N.in goes when the result is there
N.json      what became of file N
done.json   when the last one was finished; the job is kept for a stated time from then on
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from components.serving.refusal import Refused
from components.storage import Storage

_JOB, _DONE = "job.json", "done.json"
_KEPT = ("owner", "made", "options", "names", "sizes", "is_video")


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
        """Return how much of the storage it takes."""
        waiting = [size for number, size in enumerate(self.sizes) if number not in self.results]
        return sum(waiting) + sum(result.num_bytes for result in self.results.values())


def write(folder: Storage, job: Job, order: Order) -> None:
    """Keep a new job. Raises: OSError."""
    for number, (_, data) in enumerate(order.files):
        folder.write(f"{number}.in", data)
    kept = {name: getattr(job, name) for name in _KEPT}
    folder.write(_JOB, json.dumps(kept).encode())


def keep(folder: Storage, number: int, result: Result, restored: bytes) -> None:
    """Keep what became of a file, and its bytes if there are any. Raises: OSError."""
    if restored:
        folder.write(f"{number}.out", restored)
    folder.write(f"{number}.json", json.dumps(asdict(result)).encode())
    folder.delete(f"{number}.in")


def finish(folder: Storage, at: float) -> None:
    """Keep when a job was finished, in seconds since the epoch. Raises: OSError."""
    folder.write(_DONE, json.dumps({"at": at}).encode())


def delete(folder: Storage) -> None:
    """Delete a job. Raises: OSError."""
    # First what makes it a job: what is left of half a deletion is not taken up again.
    folder.delete(_JOB)
    folder.delete_all()


def load(storage: Storage) -> dict[str, Job]:
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


def refused(refusal: Refused) -> Result:
    """Return the result of a file that was refused."""
    return Result(error={"code": refusal.code, "message": refusal.message})
