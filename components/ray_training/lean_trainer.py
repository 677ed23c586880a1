"""Ray Train's trainer without the processes that a training of ours starts and never uses.

On a small machine each costs seconds of a core, just when the workers start. What is overridden is
Ray's own, not its promise: `tests/components/ray_training/test_distributed.py` says if it moves.
"""

import os
import time
from collections.abc import Callable
from typing import Any

import ray.util
from ray.train.backend import Backend, BackendConfig
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import (
    PlacementGroupCleanerCallback,
)
from ray.train.v2._internal.execution.scaling_policy import (
    NoopDecision,
    ResizeDecision,
    ScalingDecision,
    ScalingPolicy,
)
from ray.train.v2._internal.execution.worker_group import WorkerGroupPollStatus, WorkerGroupState
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from components.cluster import capacity
from components.params import Compute

# The first asks the dashboard every second, and complains where there is none, whether the
# controller lives, to release the workers of a dead one; here the driver ends with its controller,
# and Ray releases all that was the driver's. The second shares out Ray datasets: there are none.
_LEFT_OUT = (PlacementGroupCleanerCallback, DatasetsCallback)
_ASK_AGAIN_S = 60.0


class Sizes(ScalingPolicy):
    """How many workers: all that were asked for, or fewer when there is no room for them.

    At the start and after a loss, all are waited for, `compute.start_wait_s` long; then as many as
    there is room for are taken, at least the fewest, which are waited for without end. A training
    with fewer than all grows when there is room, right after a checkpoint: no step is taken twice.

    An autoscaler hears what is missing from placement groups, which vanish with the training. Ray's
    own policies tell an actor of Ray Data that outlives it; and the elastic one learns from there,
    up to 20 s late, which nodes are gone.
    """

    def __init__(
        self, scaling_config: Any, *, compute: Compute, tell: Callable[[str], None]
    ) -> None:
        super().__init__(scaling_config)
        self._compute, self._tell = compute, tell
        self._stopped_at: float | None = None
        self._started_at: float | None = None
        self._reported: set[int] = set()  # ranks whose part of the checkpoint has come
        self._missing: list[Any] = []  # a placement group for each worker that is missing

    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        """Ask for workers; Ray asks here again when they have not come in time."""
        self._forget_missing()
        now, fewest, most = time.monotonic(), *self._bounds()
        if self._stopped_at is None:
            self._stopped_at = now
            left_s, wanted = self._compute.start_wait_s, most
        else:
            left_s = self._compute.start_wait_s - (now - self._stopped_at)
            fits = capacity.free(self._compute)
            wanted = most if left_s > 0 else max(fewest, min(most, fits))
            if fits < wanted:
                needs = capacity.shown(capacity.needs(self._compute))
                self._tell(
                    f"waiting for room for {wanted} workers of {needs}; now there is room for "
                    f"{fits}"
                )
        # Ray reads it when it starts the workers.
        patience_s = min(left_s, _ASK_AGAIN_S) if left_s > 0 and fewest < most else _ASK_AGAIN_S
        os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(patience_s)
        return self._resize(wanted)

    def make_decision_for_running_worker_group(
        self, worker_group_state: WorkerGroupState, worker_group_status: WorkerGroupPollStatus
    ) -> ScalingDecision:
        """Let the workers work, or replace them by more."""
        now, _, most = time.monotonic(), *self._bounds()
        size, self._stopped_at = worker_group_state.num_workers, None
        if self._started_at != worker_group_state.start_time:
            self._started_at = worker_group_state.start_time
            self._tell(f"training with {size} of {most} workers")
        if size == most:
            return NoopDecision()
        if not self._missing:
            each = capacity.needs(self._compute)
            self._missing = [ray.util.placement_group([each]) for _ in range(most - size)]
        is_due = now - self._started_at >= self._compute.resize_interval_s
        if not (self._has_checkpoint(worker_group_status) and is_due):
            return NoopDecision()
        if not (more := sum(map(_is_there, self._missing))):
            return NoopDecision()
        self._forget_missing()
        self._tell(f"room for {size + more} workers: they go on from the checkpoint")
        return self._resize(size + more)

    def _bounds(self) -> tuple[int, int]:
        return self.scaling_config.min_workers, self.scaling_config.max_workers

    def _resize(self, num_workers: int) -> ResizeDecision:
        self._reported.clear()
        return ResizeDecision(num_workers, capacity.needs(self._compute))

    def _has_checkpoint(self, status: WorkerGroupPollStatus) -> bool:
        """Say whether the last part of a checkpoint has just come; parts come one by one."""
        ranks = status.worker_statuses
        self._reported |= {rank for rank in ranks if ranks[rank].training_report is not None}
        if len(self._reported) < len(ranks):
            return False
        self._reported.clear()
        return True

    def _forget_missing(self) -> None:
        for group in self._missing:
            ray.util.remove_placement_group(group)
        self._missing = []

    def after_controller_start(self, train_run_context: Any) -> None:
        """Leave Ray Data's actor alone."""

    async def before_controller_shutdown(self) -> None:
        self._forget_missing()

    def before_controller_abort(self) -> None:
        self._forget_missing()

    def _get_num_workers_for_resource_request(self) -> int:
        return self._bounds()[1]


def _is_there(group: Any) -> bool:
    return bool(ray.util.placement_group_table(group)["state"] == "CREATED")


class _Sharing(Backend):
    share_cuda_visible_devices = True


class SharedDevices(BackendConfig):
    """As `TorchConfig`: a worker sees all GPUs of its node's workers, which NCCL needs."""

    @property
    def backend_cls(self) -> type[Backend]:
        return _Sharing


class LeanTrainer(DataParallelTrainer):
    """`DataParallelTrainer`: `TorchTrainer` would import torch in driver and controller."""

    def __init__(
        self, *arguments: Any, compute: Compute, tell: Callable[[str], None], **options: Any
    ) -> None:
        """Take what `Sizes` needs, beside Ray's own."""
        super().__init__(*arguments, **options)
        self._compute, self._tell = compute, tell
        self._controller: Any = None

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if not isinstance(callback, _LEFT_OUT)]

    def _initialize_and_run_controller(self, **parts: Any) -> Any:
        parts["scaling_policy"] = Sizes(self.scaling_config, compute=self._compute, tell=self._tell)
        try:
            return super()._initialize_and_run_controller(**parts)
        except KeyboardInterrupt:
            if self._controller is not None:
                ray.kill(self._controller)  # its workers and their places go with it
            raise

    def _register_sigint_handler(self, controller: Any) -> None:
        """Let Ctrl-C interrupt here as anywhere.

        Ray's handler asks the controller, which does not listen while it waits for room, and takes
        the end for a success (exit code 0).
        """
        self._controller = controller
