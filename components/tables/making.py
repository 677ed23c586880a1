"""Make shards on the workers of a Ray cluster: one Ray Data job, one block per shard."""

import logging
import traceback
from collections.abc import Mapping
from typing import Any

import numpy as np

from components import cluster, logs
from components.cluster import capacity
from components.params import Compute
from components.progress import Progress
from components.tables.shards import Made
from components.tables.unfinished import Unfinished

# When a shard's worker has died this often (a node lost, no memory), the stage ends: Ray itself
# would try for ever.
_MOST_TRIES = 5


class ShardError(RuntimeError):
    """A maker raised an exception; the message repeats it, and a note has the traceback."""


class ShardWriter:
    """A Ray Data actor that makes and writes one shard per call; only its number is sent back."""

    def __init__(
        self, partial: Unfinished, maker: bytes, cpus: float, place: cluster.Workplace
    ) -> None:
        self.partial, self.pickled_maker, self.cpus, self.place = partial, maker, cpus, place
        self.maker: Any = None

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        index = int(batch["index"][0])
        try:
            self._make(index, batch["work"][0])
        except Exception as error:  # noqa: BLE001 - it travels to the driver, which raises it
            message, trace = f"{type(error).__name__}: {error}", traceback.format_exc()
        else:
            message, trace = "", ""
        return {
            "index": np.array([index]),
            "error": np.array([message]),
            "trace": np.array([trace]),
        }

    def _make(self, index: int, work: bytes) -> None:
        from ray import cloudpickle

        if self.maker is None:
            self.place.enter()
            cluster.limit_threads(self.cpus)
            maker, arguments = cloudpickle.loads(self.pickled_maker)
            cluster.limit_threads(self.cpus)  # now for the libraries that the maker imported
            self.maker = maker(**arguments)
        if (tries := self.partial.count_try(index)) > _MOST_TRIES:
            raise RuntimeError(f"its worker died {tries - 1} times, perhaps because memory ran out")
        if self.partial.note(index) is not None:
            return  # made by a worker that died before it said so, or by another run
        made = self.maker(cloudpickle.loads(work))
        if not isinstance(made, Made):
            raise TypeError(
                f"a maker returns Made; {type(self.maker).__name__} returned {type(made)}"
            )
        self.partial.keep(index, made)


def make_shards(
    partial: Unfinished,
    stage: str,
    work: Mapping[int, Any],
    maker: type,
    maker_args: Mapping[str, Any],
    compute: Compute,
) -> None:
    """Make and write shard i from `work[i]`, for every i.

    Raises: ShardError for the first exception of a maker.
    """
    with cluster.session(compute):
        from ray.data import ActorPoolStrategy, from_items

        _configure_ray_data()
        fitting = max(1, capacity.total(compute))
        most = min(compute.workers or fitting, len(work))
        todo = from_items(
            [{"index": index, "work": _pickled(item)} for index, item in work.items()],
            override_num_blocks=len(work),
        )
        done = todo.map_batches(
            ShardWriter,
            fn_constructor_kwargs={
                "partial": partial,
                "maker": _pickled((maker, dict(maker_args))),
                "cpus": compute.cpus,
                "place": cluster.Workplace.here(),
            },
            batch_size=1,
            **capacity.options(compute),
            # A fixed pool as large as the cluster hangs. Each worker has a second shard waiting:
            # without it, it idles a fifth of its time, until the driver notices that it is free.
            compute=ActorPoolStrategy(
                min_size=1,
                max_size=most,
                initial_size=min(most, fitting),
                max_tasks_in_flight_per_actor=2,
            ),
        )
        progress = Progress(stage, "shards", len(work))
        for row in done.iter_rows():
            if row["error"]:
                failed = ShardError(f"{stage}, shard {row['index']}: {row['error']}")
                failed.add_note(f"On the worker:\n{row['trace']}")
                raise failed
            if not logs.on_terminal():  # there, Ray Data draws bars
                progress.advance()


def _pickled(value: Any) -> bytes:
    from ray import cloudpickle  # pickle refuses a class or function defined in a script

    return bytes(cloudpickle.dumps(value))  # type: ignore[no-untyped-call]


def _configure_ray_data() -> None:
    from ray.data import DataContext
    from ray.util import disable_log_once_globally

    bars = logs.on_terminal()
    context = DataContext.get_current()
    context.enable_progress_bars = bars
    context.print_on_execution_start = False
    # The pool grows when all workers are busy, not only when each has a second shard waiting.
    context.autoscaling_config.actor_pool_util_upscaling_threshold = 1.0
    if not bars:  # it warns, once, that there are no bars
        disable_log_once_globally()  # type: ignore[no-untyped-call]
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.WARNING)
