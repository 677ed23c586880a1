"""A worker's side of a training: its seat among the others, and what it tells the driver.

Ray Train starts `work` in every worker process. Only there is torch imported: it takes seconds.
"""

import errno
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, NamedTuple

from components import cluster
from components.history import HistoryPoint
from components.ray_training.stalls import Sign, signs
from components.training.pulse import Pulse
from components.training.seat import PICTURE, Seat

if TYPE_CHECKING:
    import torch


class LackError(RuntimeError):
    """A worker's machine has no room left: another try would end in the same way."""


# What a worker's code does wrong, it does wrong again, and a missing file stays missing until a
# person puts it there. A lost worker, and what its loss does to the others (RuntimeError, other
# kinds of OSError, Ray's own errors), is worth another try.
MISTAKES = (
    FileNotFoundError,
    IsADirectoryError,
    LackError,
    NotADirectoryError,
    PermissionError,
    UnpicklingError,  # of `torch.load`: the file holds more than tensors
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    NotImplementedError,
    TypeError,
    ValueError,
)


class Picture(NamedTuple):
    """The restored faces of a validation."""

    step: int
    png: bytes


@dataclass(frozen=True)
class News:
    """What the driver is told: workers have started or live, new points, a checkpoint is safe."""

    points: Sequence[HistoryPoint] = ()
    pictures: Sequence[Picture] = ()
    covered_step: float | None = None  # no step up to this one will be taken again
    has_started: bool = False
    sign: Sign | None = None


Worker = Callable[[dict[str, Any], Seat], None]


def work(task: dict[str, Any]) -> None:
    """Take this process's seat and run the worker."""
    pulse = Pulse()
    with _signs(task["conductor"], pulse, task["stall_limit_s"]):
        _work(task, pulse)


def _work(task: dict[str, Any], pulse: Pulse) -> None:
    import ray.cloudpickle
    import torch  # noqa: F401 - before the number of threads is set
    from ray import train

    pulse.beat("preparing")
    task["place"].enter()
    cluster.limit_threads(task["cpus"])
    context = train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    num_streams = task["num_streams"] or world_size
    device = _device()
    conductor = task["conductor"]
    if rank == 0:
        conductor.put.remote(News(has_started=True))

    def report(points: list[HistoryPoint], checkpoint: Path | None) -> None:
        if rank == 0:
            pictures = () if checkpoint is None else _pictures(checkpoint)
            conductor.put.remote(News(points, pictures))
        if checkpoint is not None:
            _store(checkpoint, points[-1]["step"], conductor)

    worker, config = ray.cloudpickle.loads(task["worker"])
    last = train.get_checkpoint()
    with (
        _process_group(rank, world_size, device, task["stall_limit_s"]),
        nullcontext() if last is None else last.as_directory() as folder,
    ):
        resume_from = None if folder is None else Path(folder)
        if rank == 0 and resume_from is not None:
            # Once more: the driver may have ended before MLflow had it.
            conductor.put.remote(News(pictures=_pictures(resume_from)))
        seat = Seat(rank, world_size, num_streams, device, resume_from, report, pulse)
        with _mistakes_told():
            worker(config, seat)
        _wait_until_stored()  # while someone watches


def _store(checkpoint: Path, step: float, conductor: Any) -> None:
    """Store a checkpoint while the training goes on, after the one before.

    A restart finds it when the parts of all workers are there. An error of it ends the attempt.
    """
    import ray
    from ray import train

    _wait_until_stored()
    folder = checkpoint.with_name(f"{checkpoint.name}-to-store")
    checkpoint.rename(folder)  # Ray deletes it
    train.report(
        {"step": step},
        checkpoint=train.Checkpoint.from_directory(folder),
        checkpoint_upload_mode=train.CheckpointUploadMode.ASYNC,
    )
    if ray.get(conductor.is_to_stop.remote()):
        _wait_until_stored()  # and end there: steps after it would be taken again


def _wait_until_stored() -> None:
    from ray import train

    mode = train.CheckpointConsistencyMode.COMMITTED
    train.get_all_reported_checkpoints(consistency_mode=mode)


def _signs(conductor: Any, pulse: Pulse, limit_s: float) -> AbstractContextManager[None]:
    import ray
    from ray import train

    rank = train.get_context().get_world_rank()
    node = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    worker = ray.get_runtime_context().current_actor

    def send(number: int, doing: str, still_s: float, where: str) -> None:
        sign = Sign(rank, node, number, doing, still_s, where, worker)
        conductor.put.remote(News(sign=sign))

    return signs(pulse, limit_s, send)


@contextmanager
def _mistakes_told() -> Iterator[None]:
    """Make the driver see where a mistake was made, and what a machine lacks."""
    try:
        yield
    except MISTAKES as error:
        error.add_note(traceback.format_exc())  # otherwise it stays in this process
        raise
    except Exception as error:
        if (told := lack(error)) is None:
            raise
        lacking = LackError(told)
        lacking.add_note(traceback.format_exc())
        raise lacking from error


def lack(error: Exception) -> str | None:
    """Return what a machine has run out of and what to do, if that is what the error says."""
    import torch

    if isinstance(error, torch.OutOfMemoryError):
        return (
            f"the GPU has no memory left ({str(error).splitlines()[0]}): train with precision "
            "bf16, with more parts in compute's recompute, or with a smaller batch_size and more "
            "accumulate; 'hdrface plan' says what fits"
        )
    return disk_full(error)


def disk_full(error: Exception) -> str | None:
    """Return what to do about a full disk, if that is what the error says."""
    # safetensors writes files with an error of its own, which has no errno.
    is_full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    if is_full or f"os error {errno.ENOSPC}" in str(error):
        return (
            f"a disk is full ({error}): free space where the checkpoints go (models/, or "
            "HDRFACE_ROOT) and in the folder for temporary files (TMPDIR), and start again: the "
            "training goes on from its last checkpoint"
        )
    return None


def _pictures(checkpoint: Path) -> list[Picture]:
    start, end = PICTURE.split("{}")
    return [
        Picture(int(file.name.removeprefix(start).removesuffix(end)), file.read_bytes())
        for file in checkpoint.glob(PICTURE.format("*"))
    ]


def _device() -> "torch.device":
    import ray
    import torch

    if not ray.get_gpu_ids():
        return torch.device("cpu")
    from ray.train.torch import get_device

    device: torch.device = get_device()
    torch.cuda.set_device(device)
    return device


@contextmanager
def _process_group(
    rank: int, world_size: int, device: "torch.device", stall_limit_s: float
) -> Iterator[None]:
    """Join the other workers: gloo on CPUs, NCCL on GPUs."""
    import torch.distributed as dist

    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(
        backend,
        store=_meeting_point(rank, world_size),
        rank=rank,
        world_size=world_size,
        # Later than the driver, which names the worker that is waited for.
        timeout=timedelta(seconds=2 * stall_limit_s),
    )
    yield
    # Not after an error: others may be gone, and to say goodbye to them is to wait for them.
    dist.destroy_process_group()


def _meeting_point(rank: int, world_size: int) -> Any:
    """Open where the workers find each other; one alone has a group, too, to be sharded over."""
    import torch.distributed as dist

    if world_size == 1:
        return dist.HashStore()  # type: ignore[attr-defined]
    import ray.util
    from ray.train.collective import broadcast_from_rank_zero

    if rank != 0:
        address, port = broadcast_from_rank_zero(None)
        return dist.TCPStore(  # type: ignore[attr-defined]
            address, port, world_size, is_master=False
        )
    # Port 0: the system picks a free one, and it is ours at once.
    address = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    store = dist.TCPStore(  # type: ignore[attr-defined]
        address, 0, world_size, is_master=True, wait_for_workers=False
    )
    broadcast_from_rank_zero((address, store.port))
    return store
