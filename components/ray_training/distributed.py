"""A training on Ray Train: worker processes that find each other, and go on after any is lost.

`fit` starts one process a worker; each runs the same function and meets the others in a process
group. What the function reports reaches the driver through a mailbox, so that the driver alone
talks to MLflow and the terminal, and no number is lost with a worker.

Start-up is most of a short training. With `TorchTrainer`, the driver and the controller import
torch, one after the other, before the first worker does; here only workers do.
"""

import logging
import os
import queue
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components import cluster
from components.cluster import capacity
from components.history import HistoryPoint
from components.params import Compute, ElasticBatch, Workers
from components.storage import Storage
from components.training.seat import Seat

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

_SETTINGS = {
    # The controller reads results and notices a lost worker this often (default 2 s); with the
    # default, each report waits for it.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # Each is a process more. Prometheus' numbers need the dashboard; the watcher looks for
    # announced ends of cloud machines.
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # A line for every report otherwise.
    "RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING": "0",
    # Paths in a configuration are relative to where the stage was started.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}
_TAKE_EVERY_S = 0.5
# What a worker's code does wrong, it does wrong again. A lost worker, and what its loss does to the
# others (RuntimeError, OSError, Ray's own errors), is worth another try.
_MISTAKES = (
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


class TrainingError(RuntimeError):
    """A training ended without its result; the message says why."""


@dataclass(frozen=True)
class News:
    """What the driver is told: new points, that a checkpoint is safe, or what is waited for."""

    points: Sequence[HistoryPoint] = ()
    covered_step: float | None = None  # no step up to this one will be taken again
    notice: str = ""


Worker = Callable[[dict[str, Any], Seat], None]


def fit(
    worker: Worker,
    config: dict[str, Any],
    *,
    name: str,
    storage: Storage,
    workers: Workers,
    compute: Compute,
    listen: Callable[[News], None],
    elastic_batch: ElasticBatch = "global",
    max_failures: int = 3,
) -> Storage:
    """Run `worker(config, seat)` on every worker and give the folder of the last checkpoint.

    A training of this `name` in `storage` that was interrupted goes on from its last checkpoint, in
    a new call, and within one when a worker is lost: with as many workers, which it waits for; with
    [min, max], with those that it has after a while, and with more when there is room.

    Args:
        worker: a function of an importable module; `config` must pickle.
        config: handed to every worker.
        name: must contain what the training is made from: the same name means the same training.
        storage: that all nodes see.
        workers: number of processes, or the fewest and the most.
        compute: what each worker needs, CPUs being its number of threads too; and the waits.
        listen: called in a thread of this process with what rank 0 reports, and at least every
            half second, perhaps with no news; the training ends after its next checkpoint if it
            raises an error.
        elastic_batch: "global": as many streams of rows as `workers` are at most; "per_worker": as
            they are.
        max_failures: how often workers may be lost with no checkpoint between.

    Raises: TrainingError with the worker's own error, or that of `listen`.
    """
    for setting, value in _SETTINGS.items():  # read when a training starts, not at import
        os.environ.setdefault(setting, value)
    import ray
    import ray.cloudpickle
    from ray import train
    from ray.train.v2.api.exceptions import TrainingFailedError

    from components.ray_training.lean_trainer import LeanTrainer, SharedDevices

    fewest, most = workers if isinstance(workers, tuple) else (workers, workers)
    _check_room(fewest, compute)
    _drop_broken_snapshot(storage / name)
    mailbox = _open_mailbox(name)
    trainer = LeanTrainer(
        _work,
        train_loop_config={
            # As bytes: the controller reads this dictionary, and would import what the worker does.
            "worker": ray.cloudpickle.dumps((worker, config)),  # type: ignore[no-untyped-call]
            "mailbox": mailbox,
            "cpus": compute.cpus,
            "place": cluster.Workplace.here(),
            "num_streams": most if elastic_batch == "global" else None,
        },
        compute=compute,
        tell=lambda notice: mailbox.put.remote(News(notice=notice)),
        backend_config=SharedDevices(),
        scaling_config=train.ScalingConfig(
            num_workers=(fewest, _within_reach(most, compute)),  # type: ignore[arg-type]
            use_gpu=compute.gpus > 0,
            resources_per_worker=capacity.needs(compute),
        ),
        run_config=train.RunConfig(
            name=name,
            storage_path=storage.path,
            storage_filesystem=storage.filesystem,
            failure_config=train.FailureConfig(max_failures=-1),  # the callback counts
            checkpoint_config=train.CheckpointConfig(num_to_keep=1),
            callbacks=[_callback(mailbox, max_failures)],
        ),
    )
    try:
        with _listening(mailbox, listen):
            result = trainer.fit()
    except TrainingFailedError as error:
        raise TrainingError(_reason(error)) from error
    finally:
        ray.kill(mailbox)
    if result.checkpoint is None:
        raise TrainingError(f"training {name} ended without a checkpoint")
    return storage / str(result.checkpoint.path).removeprefix(f"{storage.path}/")


def _check_room(fewest: int, compute: Compute) -> None:
    """Refuse what this machine has no room for; a cluster may grow."""
    if (found := capacity.total(compute)) >= fewest:
        return
    each = capacity.shown(capacity.needs(compute))
    short = f"{fewest} workers need {each} each, and Ray has room for {found}"
    if not cluster.on_cluster():
        raise ValueError(f"{short}: train with fewer workers, or on a cluster (RAY_ADDRESS)")
    log.warning("%s: waiting until the cluster has grown", short)


def _within_reach(most: int, compute: Compute) -> int:
    """Give as many workers as may ever come; this machine does not grow."""
    return most if cluster.on_cluster() else min(most, capacity.total(compute))


def _drop_broken_snapshot(folder: Storage) -> None:
    """Forget a list of checkpoints that a kill has cut short: Ray writes it in place."""
    import json

    file = "checkpoint_manager_snapshot.json"
    try:
        json.loads(folder.read(file))
    except FileNotFoundError:
        return
    except ValueError:
        log.warning("%s/%s was cut short: the training starts again at step 0", folder.url, file)
        folder.delete(file)


def _callback(mailbox: Any, max_failures: int) -> Any:
    """Make what the controller calls after each checkpoint and after each error of a worker."""
    import ray
    from ray.train import UserCallback

    class Callback(UserCallback):
        num_failures = 0  # since the last checkpoint

        def after_report(
            self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any
        ) -> None:
            """Tell the driver: only now would a restart find the checkpoint."""
            del run_context, checkpoint
            self.num_failures = 0
            mailbox.put.remote(News(covered_step=metrics[0]["step"]))
            if reason := ray.get(mailbox.reason_to_end.remote()):
                raise TrainingError(reason)

        def after_exception(
            self, run_context: Any, worker_exceptions: dict[int, Exception]
        ) -> None:
            """End the training at a mistake, or if it does not get on, and do not try again."""
            del run_context
            for rank, error in worker_exceptions.items():
                if isinstance(error, _MISTAKES):
                    trace = "".join(getattr(error, "__notes__", ()))
                    kind = type(error).__name__
                    raise TrainingError(f"worker {rank}: {kind}: {error}\n{trace}")
            self.num_failures += 1
            if self.num_failures > max_failures:
                first = next(iter(worker_exceptions.values()))
                raise TrainingError(
                    f"workers were lost {self.num_failures} times with no checkpoint between: "
                    f"{first}"
                )

    return Callback()


def _reason(error: Exception) -> str:
    cause = getattr(error, "controller_failure", error)
    return str(cause)


def _open_mailbox(name: str) -> Any:
    """Start the mailbox beside the driver: on a node that may be lost, news would be.

    Its name belongs to the training: a second run of it on this cluster would write over the first.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    mailbox = ray.remote(num_cpus=0)(_Mailbox).options(
        name=f"training-{name}", namespace="hdrface", scheduling_strategy=here
    )
    try:
        return mailbox.remote()
    except ValueError as error:
        raise TrainingError(
            f"training {name} runs on this cluster already: wait for it, or stop its job ('hdrface "
            "jobs' lists them)"
        ) from error


class _Mailbox:
    """An actor between rank 0 and the driver; writing to it waits for nobody."""

    def __init__(self) -> None:
        self._news: queue.SimpleQueue[News] = queue.SimpleQueue()
        self._reason_to_end = ""

    def put(self, news: News) -> None:
        self._news.put(news)

    def take(self) -> list[News]:
        return [self._news.get() for _ in range(self._news.qsize())]

    def end(self, reason: str) -> None:
        """Let the training end after its next checkpoint."""
        self._reason_to_end = reason

    def reason_to_end(self) -> str:
        return self._reason_to_end


@contextmanager
def _listening(mailbox: Any, listen: Callable[[News], None]) -> Iterator[None]:
    """Hand what is in the mailbox to `listen` while the block runs, all of it before it ends."""
    import ray

    is_over = threading.Event()
    errors: list[Exception] = []

    def hear(arrived: list[News]) -> None:
        for news in arrived:
            if news.notice:
                log.info(news.notice)
            listen(news)

    def take() -> None:
        try:
            while not is_over.wait(_TAKE_EVERY_S):
                hear(ray.get(mailbox.take.remote()) or [News()])
            hear(ray.get(mailbox.take.remote()))
        except Exception as error:  # noqa: BLE001 - raised again in the driver's thread
            errors.append(error)
            mailbox.end.remote(str(error))

    listener = threading.Thread(target=take, name="news-of-the-training", daemon=True)
    listener.start()
    try:
        yield
    finally:
        is_over.set()
        listener.join()
    if errors:
        raise errors[0]


def _work(task: dict[str, Any]) -> None:
    """Take this process's seat and run the worker: the function that Ray Train starts."""
    import ray.cloudpickle
    import torch  # noqa: F401 - before the number of threads is set
    from ray import train

    task["place"].enter()
    cluster.limit_threads(task["cpus"])
    context = train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    num_streams = task["num_streams"] or world_size
    device = _device()
    mailbox = task["mailbox"]

    def report(points: list[HistoryPoint], checkpoint: Path | None) -> None:
        if rank == 0:
            mailbox.put.remote(News(points))
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
        except _MISTAKES as error:
            error.add_note(traceback.format_exc())  # else it stays in this process
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
    if world_size == 1:
        yield
        return
    import ray.util
    import torch.distributed as dist
    from ray.train.collective import broadcast_from_rank_zero
    from torch._C._distributed_c10d import TCPStore

    if rank == 0:
        # Port 0: the system picks a free one, and it is ours at once.
        address = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        store = TCPStore(address, 0, world_size, is_master=True, wait_for_workers=False)
        broadcast_from_rank_zero((address, store.port))
    else:
        address, port = broadcast_from_rank_zero(None)
        store = TCPStore(address, port, world_size, is_master=False)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size)
    yield
    # Not after an error: others may be gone, and to say goodbye to them is to wait for them.
    dist.destroy_process_group()
