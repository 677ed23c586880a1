"""Ray Train, run in an actor beside the driver: one try with a fixed number of workers.

Not in the driver itself, because what runs there cannot be ended: Ray Train takes Ctrl-C for
itself. Everything here belongs to the actor, so who kills the actor ends the training.

Ray Train's own [min, max] workers are not used. They count the CPUs and GPUs of all nodes, whoever
uses them: in a cluster that others use too, it waits for ever for what it takes to be free.
"""

import os
import queue
import time
from dataclasses import dataclass
from typing import Any, Literal

import ray
from ray import train
from ray.train import UserCallback
from ray.train.backend import Backend, BackendConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from components.cluster import capacity
from components.params import Compute
from components.ray_training.seat import MISTAKES, News, work
from components.storage import Storage

_START = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
_SETTINGS = {
    # The driver has seen that there is room: by now others have taken it, or processes are slow.
    _START: "60",
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


@dataclass(frozen=True)
class End:
    """How a try ended: with a checkpoint, stopped by the driver, in vain, or for good."""

    how: Literal["finished", "stopped", "no room", "lost", "failed"]
    said: str = ""  # finished: the path of the checkpoint, "" if there is none; otherwise why


class Conductor:
    """An actor that runs the tries, and through which news travel; to tell it waits for nobody."""

    def __init__(self, name: str, task: dict[str, Any], storage: Storage, compute: Compute) -> None:
        self._name, self._task, self._storage, self._compute = name, task, storage, compute
        self._news: queue.SimpleQueue[News] = queue.SimpleQueue()
        self._has_started = self._is_to_stop = False
        for setting, value in _SETTINGS.items():  # read when a training starts
            os.environ.setdefault(setting, value)
        task["place"].enter()

    @ray.method(concurrency_group="training")
    def attempt(self, num_workers: int) -> End:
        """Train from the last checkpoint on, until the end, a stop, or a loss."""
        self._has_started = self._is_to_stop = False
        began = time.monotonic()
        try:
            result = self._trainer(num_workers).fit()
        except train.WorkerGroupError as error:
            return _about(error.worker_failures)
        except train.TrainingFailedError as error:
            if self._is_to_stop:
                return End("stopped")
            waited_s = time.monotonic() - began
            if not self._has_started and waited_s > float(os.environ[_START]):
                return End("no room")
            return End("lost", str(getattr(error, "controller_failure", error)))
        checkpoint = result.checkpoint
        return End("finished", "" if checkpoint is None else str(checkpoint.path))

    def _trainer(self, num_workers: int) -> DataParallelTrainer:
        conductor = ray.get_runtime_context().current_actor
        # Nothing is tried again in there: the driver looks for room first.
        never_again = train.FailureConfig(
            max_failures=0,
            controller_failure_limit=0,
            max_preemption_failures=0,  # type: ignore[call-arg] # mypy sees the older class
        )
        # Not `TorchTrainer`, with which this actor and Ray's controller import torch, too, one
        # after the other, before the first worker does.
        return DataParallelTrainer(
            work,
            train_loop_config={**self._task, "conductor": conductor},
            backend_config=_SharedDevices(),
            scaling_config=train.ScalingConfig(
                num_workers=num_workers,
                use_gpu=self._compute.gpus > 0,
                resources_per_worker=capacity.needs(self._compute),
            ),
            run_config=train.RunConfig(
                name=self._name,
                storage_path=self._storage.path,
                storage_filesystem=self._storage.filesystem,
                failure_config=never_again,
                checkpoint_config=train.CheckpointConfig(num_to_keep=1),
                callbacks=[_Callback(conductor)],  # type: ignore[list-item] # likewise
            ),
        )

    @ray.method(concurrency_group="news")
    def put(self, news: News) -> None:
        self._has_started |= news.has_started
        self._news.put(news)

    @ray.method(concurrency_group="news")
    def take(self) -> list[News]:
        return [self._news.get() for _ in range(self._news.qsize())]

    @ray.method(concurrency_group="news")
    def stop(self) -> None:
        """Let the try end after its next checkpoint."""
        self._is_to_stop = True

    @ray.method(concurrency_group="news")
    def is_to_stop(self) -> bool:
        return self._is_to_stop


# One thread each: news keep their order, and are taken while an attempt runs.
CONCURRENCY = {"training": 1, "news": 1}


def _about(failures: dict[int, Exception]) -> End:
    """Tell a mistake, which is made again, from a loss."""
    for rank, error in failures.items():
        if isinstance(error, MISTAKES):
            trace = "".join(getattr(error, "__notes__", ()))
            return End("failed", f"worker {rank}: {type(error).__name__}: {error}\n{trace}")
    return End("lost", str(next(iter(failures.values()))))


class _Callback(UserCallback):
    """What Ray's controller calls after each checkpoint: only now would a restart find it."""

    def __init__(self, conductor: Any) -> None:
        self._conductor = conductor

    def after_report(
        self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any
    ) -> None:
        del run_context, checkpoint
        self._conductor.put.remote(News(covered_step=metrics[0]["step"]))
        if ray.get(self._conductor.is_to_stop.remote()):
            raise RuntimeError("the driver stops this try")


class _Sharing(Backend):
    share_cuda_visible_devices = True


class _SharedDevices(BackendConfig):
    """As `TorchConfig`: a worker sees all GPUs of its node's workers, which NCCL needs."""

    @property
    def backend_cls(self) -> type[Backend]:
        return _Sharing
