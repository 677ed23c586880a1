"""Ray Train's trainer without the processes that a training of ours starts and never uses.

On a small machine each costs seconds of a core, just when the workers start. What is overridden is
Ray's own, not its promise: `tests/components/runtime/test_distributed.py` says if it moves.
"""

from typing import Any

from ray.train.backend import Backend, BackendConfig
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import (
    PlacementGroupCleanerCallback,
)
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

# The first asks the dashboard every second, and complains where there is none, whether the
# controller lives, to release the workers of a dead one; here the driver ends with its controller,
# and Ray releases all that was the driver's. The second shares out Ray datasets: there are none.
_LEFT_OUT = (PlacementGroupCleanerCallback, DatasetsCallback)


class FixedSize(FixedScalingPolicy):
    """As many workers as asked for, without telling Ray Data's coordinator of resources.

    An autoscaler hears of the workers from their placement group.
    """

    def _send_resource_request(self) -> None:
        pass

    def _maybe_send_resource_request(self) -> None:
        pass

    def _cancel_resource_request(self) -> None:
        pass


class _Sharing(Backend):
    share_cuda_visible_devices = True


class SharedDevices(BackendConfig):
    """As `TorchConfig`: a worker sees all GPUs of its node's workers, which NCCL needs."""

    @property
    def backend_cls(self) -> type[Backend]:
        return _Sharing


class LeanTrainer(DataParallelTrainer):
    """`DataParallelTrainer`: `TorchTrainer` would import torch in driver and controller."""

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if not isinstance(callback, _LEFT_OUT)]

    def _initialize_and_run_controller(self, **parts: Any) -> Any:
        parts["scaling_policy"] = FixedSize(self.scaling_config)  # type: ignore[arg-type]
        return super()._initialize_and_run_controller(**parts)
