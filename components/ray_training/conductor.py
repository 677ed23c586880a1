"""The actor beside the driver that runs a training's attempts, and that messages go through.

Ray Train does not run in the driver itself, because it could not be ended there: it takes Ctrl-C
for itself. All that an attempt starts belongs to this actor, and ends with it.
"""

import os
import queue
import time
from dataclasses import dataclass
from typing import Any, Literal

import ray

from components.params import Compute
from components.ray_training.worker import News
from components.storage import Storage

_START_TIMEOUT = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
_SETTINGS = {
    # The driver has seen that there is room. If it is gone, others have taken it meanwhile.
    _START_TIMEOUT: "60",
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
    """How an attempt ended, and why; if it finished, with the path of its last checkpoint."""

    how: Literal["finished", "stopped", "no room", "lost", "failed"]
    said: str = ""


class Conductor:
    """Runs attempts in one thread, and passes messages in another; to tell it something is fast."""

    def __init__(self, name: str, task: dict[str, Any], storage: Storage, compute: Compute) -> None:
        self._name, self._task, self._storage, self._compute = name, task, storage, compute
        self._news: queue.SimpleQueue[News] = queue.SimpleQueue()
        self._has_started = self._is_to_stop = False
        for setting, value in _SETTINGS.items():  # read when an attempt starts
            os.environ.setdefault(setting, value)
        task["place"].enter()

    @ray.method(concurrency_group="attempts")
    def attempt(self, num_workers: int) -> End:
        """Train from the last checkpoint on, until the end, a stop or a loss."""
        # Not at the top of this file: the driver imports it, too, and this takes two seconds.
        from components.ray_training.attempt import attempt

        self._has_started = self._is_to_stop = False
        started = time.monotonic()
        task = {**self._task, "conductor": ray.get_runtime_context().current_actor}
        end = attempt(self._name, task, self._storage, self._compute, num_workers)
        waited_s = time.monotonic() - started
        if end.how == "lost" and self._is_to_stop:
            return End("stopped")
        if end.how == "lost" and not self._has_started and waited_s > _start_timeout_s():
            return End("no room", end.said)
        return end

    @ray.method(concurrency_group="messages")
    def put(self, news: News) -> None:
        self._has_started |= news.has_started
        self._news.put(news)

    @ray.method(concurrency_group="messages")
    def take(self) -> list[News]:
        return [self._news.get() for _ in range(self._news.qsize())]

    @ray.method(concurrency_group="messages")
    def stop(self) -> None:
        """End the attempt after its next checkpoint."""
        self._is_to_stop = True

    @ray.method(concurrency_group="messages")
    def is_to_stop(self) -> bool:
        return self._is_to_stop


# One thread each: messages keep their order, and pass while an attempt runs.
CONCURRENCY = {"attempts": 1, "messages": 1}


def _start_timeout_s() -> float:
    return float(os.environ[_START_TIMEOUT])
