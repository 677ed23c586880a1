"""One run of Ray Train, with a fixed number of workers and no second chance: the driver decides.

Ray Train's own [min, max] workers are not used. They count the CPUs and GPUs of all nodes, whoever
uses them: where another job holds a node, they wait for it for ever; and to grow, they end the
running workers at any step, before there is room (docs/decisions/0008-ray-public-api.md).
"""

from typing import Any

import ray
from ray import train
from ray.train import UserCallback
from ray.train.backend import Backend, BackendConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from components.cluster import capacity
from components.params import Compute
from components.ray_training.conductor import End
from components.ray_training.worker import MISTAKES, News, disk_full, work
from components.storage import Storage


def attempt(
    name: str, task: dict[str, Any], storage: Storage, compute: Compute, num_workers: int
) -> End:
    """Train from the last checkpoint of this name on, and return how it ended."""
    # `DataParallelTrainer`: with `TorchTrainer`, this process and Ray's controller import torch,
    # one after the other, before the first worker does.
    trainer = DataParallelTrainer(
        work,
        train_loop_config=task,
        backend_config=_SharedDevices(),
        scaling_config=train.ScalingConfig(
            num_workers=num_workers,
            use_gpu=compute.gpus > 0,
            resources_per_worker=capacity.needs(compute),
        ),
        run_config=train.RunConfig(
            name=name,
            storage_path=storage.path,
            storage_filesystem=storage.filesystem,
            failure_config=train.FailureConfig(
                max_failures=0,
                controller_failure_limit=0,
                max_preemption_failures=0,  # type: ignore[call-arg] # mypy sees an older class
            ),
            checkpoint_config=train.CheckpointConfig(num_to_keep=1),
            callbacks=[_Callback(task["conductor"])],  # type: ignore[list-item] # likewise
        ),
    )
    try:
        checkpoint = trainer.fit().checkpoint
    except train.WorkerGroupError as error:
        return _about(error.worker_failures)
    except train.TrainingFailedError as error:
        return End("lost", str(getattr(error, "controller_failure", error)))
    return End("finished", "" if checkpoint is None else str(checkpoint.path))


def _about(failures: dict[int, Exception]) -> End:
    """Tell a mistake, which would be made again, from a loss."""
    for rank, error in failures.items():
        if isinstance(error, MISTAKES):
            trace = "".join(getattr(error, "__notes__", ()))
            return End("failed", f"worker {rank}: {type(error).__name__}: {error}\n{trace}")
        if (told := disk_full(error)) is not None:  # while a checkpoint was stored
            return End("failed", f"worker {rank}: {told}")
    rank, error = next(iter(failures.items()))
    return End("lost", f"worker {rank}: {error}")


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
            raise RuntimeError("the driver ends this attempt")


class _Sharing(Backend):
    share_cuda_visible_devices = True


class _SharedDevices(BackendConfig):
    """As `TorchConfig`: a worker sees all GPUs of its node's workers, which NCCL needs."""

    @property
    def backend_cls(self) -> type[Backend]:
        return _Sharing
