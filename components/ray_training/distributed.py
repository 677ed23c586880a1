"""A training on Ray Train: worker processes that find each other, and go on after any is lost.

`fit` looks for room and lets Ray Train make an `attempt` with so many workers, until one comes to
its end. Each worker runs the same function and meets the others in a process group (`worker`). What
the function reports reaches the driver through an actor beside it (`conductor`), so that the driver
alone talks to MLflow and the terminal, and no number is lost with a worker.
"""

import contextlib
import logging
import math
import time
from collections.abc import Callable
from typing import Any

from components import cluster
from components.cluster import capacity
from components.params import Compute, ElasticBatch, Workers
from components.ray_training.stalls import Stalls
from components.ray_training.worker import News, Worker
from components.storage import Storage

log = logging.getLogger(__name__)

_LISTEN_EVERY_S = 0.5
_FIRST_WORD_AFTER_S = 5.0
_NEXT_WORD_AFTER_S = 60.0


class TrainingError(RuntimeError):
    """A training ended without its result; the message says why."""


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
    import ray
    import ray.cloudpickle

    fewest, most = workers if isinstance(workers, tuple) else (workers, workers)
    _check_room(fewest, compute)
    _drop_broken_snapshot(storage / name)
    task = {
        # As bytes: Ray's controller reads this dictionary, and would import what the worker does.
        "worker": ray.cloudpickle.dumps((worker, config)),  # type: ignore[no-untyped-call]
        "cpus": compute.cpus,
        "place": cluster.Workplace.here(),
        "num_streams": most if elastic_batch == "global" else None,
        "stall_limit_s": compute.stall_limit_s,
    }
    conductor = _start_conductor(name, task, storage, compute)
    reach = _within_reach(most, compute)
    attempts = _Attempts(conductor, fewest, reach, compute, listen, max_failures)
    try:
        path = attempts.run()
    finally:
        ray.kill(conductor)  # Ray's controller and the workers go with it
    if not path:
        raise TrainingError(f"training {name} ended without a checkpoint")
    return storage / path.removeprefix(f"{storage.path}/")


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


def _start_conductor(name: str, task: dict[str, Any], storage: Storage, compute: Compute) -> Any:
    """Start the conductor beside the driver: messages would be lost with any other node.

    Its name belongs to the training: a second run of it on this cluster would write over the first.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from components.ray_training.conductor import CONCURRENCY, Conductor

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor: Any = ray.remote  # its types know no groups
    conductor = actor(num_cpus=0, concurrency_groups=CONCURRENCY)(Conductor).options(
        name=f"training-{name}", namespace="hdrface", scheduling_strategy=here
    )
    try:
        return conductor.remote(name, task, storage, compute)
    except ValueError as error:
        raise TrainingError(
            f"training {name} runs on this cluster already: wait for it, or stop its job ('hdrface "
            "jobs' lists them)"
        ) from error


class _Attempts:
    """A training as attempts: each has a fixed number of workers, and goes on where one ended.

    At the start and after a loss, all workers are waited for, `compute.start_wait_s` long; then as
    many as there is room for are taken, at least the fewest, which are waited for without end. A
    training with fewer than all grows when there is room, right after a checkpoint: no step is
    taken twice.
    """

    def __init__(
        self,
        conductor: Any,
        fewest: int,
        most: int,
        compute: Compute,
        listen: Callable[[News], None],
        max_failures: int,
    ) -> None:
        self._conductor, self._compute, self._listen = conductor, compute, listen
        self._fewest, self._most = fewest, most
        self._failures, self._max_failures = 0, max_failures  # since the last checkpoint
        self._started_at: float | None = None  # the workers of this attempt
        self._error: Exception | None = None  # of `listen`

    def run(self) -> str:
        """Return the path of the last checkpoint. Raises: TrainingError."""
        wanted = self._most
        while True:
            end, wanted = self._train(self._find_room(wanted))
            if self._error is not None:
                raise TrainingError(str(self._error)) from self._error
            if end.how == "finished":
                return str(end.said)
            if end.how == "failed":
                raise TrainingError(end.said)
            if end.how == "lost":
                said = self._stalls.ended or end.said
                self._failures += 1
                if self._failures > self._max_failures:
                    raise TrainingError(
                        f"workers were lost {self._failures} times with no checkpoint between: "
                        f"{said}"
                    )
                log.warning("lost %s: going on from the last checkpoint", said.splitlines()[0])

    def _find_room(self, wanted: int) -> int:
        """Return how many workers to start, as soon as there is room for them."""
        late = time.monotonic() + self._compute.start_wait_s
        next_word = time.monotonic() + _FIRST_WORD_AFTER_S
        while not self._has_come(wanted, min(late, next_word)):
            room = capacity.free(self._compute, wanted)
            if time.monotonic() >= late:
                if room >= self._fewest:
                    return room
                wanted, late = self._fewest, math.inf
            needs = capacity.shown(capacity.needs(self._compute))
            log.info(
                "waiting for room for %d workers of %s; now there is room for %d",
                *(wanted, needs, room),
            )
            next_word = time.monotonic() + _NEXT_WORD_AFTER_S
        return wanted

    def _has_come(self, wanted: int, until: float) -> bool:
        """Ask for room for so many workers, all at once, and wait for it."""
        with capacity.together(self._compute, wanted) as request:
            while not request.wait(_LISTEN_EVERY_S):
                if time.monotonic() >= until:
                    return False
                self._listen(News())
        return True

    def _train(self, count: int) -> tuple[Any, int]:
        """Return how an attempt with so many workers ended, and how many to start next."""
        import ray

        self._count, self._started_at = count, None
        self._stalls = Stalls(self._compute.stall_limit_s, ray.kill)
        attempt = self._conductor.attempt.remote(count)
        missing: capacity.Request | None = None
        is_stopped = False
        with contextlib.ExitStack() as requests:
            while not ray.wait([attempt], timeout=_LISTEN_EVERY_S)[0]:
                self._hear(ray.get(self._conductor.take.remote()) or [News()])
                self._stalls.look()
                if self._started_at is None or count == self._most:
                    continue
                if missing is None:  # not earlier: it would take the room of its workers
                    missing = capacity.singly(self._compute, self._most - count)
                    requests.enter_context(missing)
                is_due = time.monotonic() - self._started_at >= self._compute.resize_interval_s
                if is_due and not is_stopped and missing.num_granted():
                    is_stopped = True
                    self._conductor.stop.remote()
            self._hear(ray.get(self._conductor.take.remote()))
            end = ray.get(attempt)
            if missing is None or end.how != "stopped":
                return end, self._most
            wanted = count + missing.num_granted()
        log.info("room for %d workers: they go on from the checkpoint", wanted)
        return end, wanted

    def _hear(self, arrived: list[News]) -> None:
        for news in arrived:
            if news.sign is not None:
                self._stalls.hear(news.sign)
            if news.has_started:
                self._started_at = time.monotonic()
                log.info("training with %d of %d workers", self._count, self._most)
            if news.covered_step is not None:
                self._failures = 0
            if self._error is None:
                try:
                    self._listen(news)
                except Exception as error:  # noqa: BLE001 - raised after the next checkpoint
                    self._error = error
                    self._conductor.stop.remote()
