"""A worker's side of a training: its seat among the others, and what it tells the driver.

Ray Train starts `work` in every worker process. Only there is torch imported: it takes seconds.
"""

import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from components import cluster
from components.history import HistoryPoint
from components.training.seat import Seat

if TYPE_CHECKING:
    import torch

# What a worker's code does wrong, it does wrong again, and a missing file stays missing until a
# person puts it there. A lost worker, and what its loss does to the others (RuntimeError, other
# kinds of OSError, Ray's own errors), is worth another try.
MISTAKES = (
    FileNotFoundError,
    IsADirectoryError,
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


@dataclass(frozen=True)
class News:
    """What the driver is told: workers have started, new points, or a checkpoint is safe."""

    points: Sequence[HistoryPoint] = ()
    covered_step: float | None = None  # no step up to this one will be taken again
    has_started: bool = False


Worker = Callable[[dict[str, Any], Seat], None]


def work(task: dict[str, Any]) -> None:
    """Take this process's seat and run the worker."""
    import ray.cloudpickle
    import torch  # noqa: F401 - before the number of threads is set
    from ray import train

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
            conductor.put.remote(News(points))
        if checkpoint is not None:
            train.report(
                {"step": points[-1]["step"]},
                checkpoint=train.Checkpoint.from_directory(checkpoint),
            )

    worker, config = ray.cloudpickle.loads(task["worker"])
    last = train.get_checkpoint()
    with (
        _process_group(rank, world_size, device),
        nullcontext() if last is None else last.as_directory() as folder,
    ):
        resume_from = None if folder is None else Path(folder)
        try:
            worker(config, Seat(rank, world_size, num_streams, device, resume_from, report))
        except MISTAKES as error:
            error.add_note(traceback.format_exc())  # otherwise it stays in this process
            raise


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
def _process_group(rank: int, world_size: int, device: "torch.device") -> Iterator[None]:
    """Join the other workers: gloo on CPUs, NCCL on GPUs."""
    import torch.distributed as dist

    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(
        backend, store=_meeting_point(rank, world_size), rank=rank, world_size=world_size
    )
    yield
    # Not after an error: others may be gone, and to say goodbye to them is to wait for them.
    dist.destroy_process_group()


def _meeting_point(rank: int, world_size: int) -> "torch.distributed.Store":
    """Open where the workers find each other; one alone has a group, too, to be sharded over."""
    import torch.distributed as dist

    if world_size == 1:
        return dist.HashStore()
    import ray.util
    from ray.train.collective import broadcast_from_rank_zero

    if rank != 0:
        address, port = broadcast_from_rank_zero(None)
        return dist.TCPStore(address, port, world_size, is_master=False)
    # Port 0: the system picks a free one, and it is ours at once.
    address = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    store = dist.TCPStore(address, 0, world_size, is_master=True, wait_for_workers=False)
    broadcast_from_rank_zero((address, store.port))
    return store
