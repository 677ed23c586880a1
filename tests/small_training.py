"""A training small enough to be killed many times: what `training_run` and the loop must survive.

    python -m tests.small_training OUT

trains a few linear layers on two workers, in seconds. It takes the place of a stage: its `work`
calls the real loop from the real `training_run`, over a step and rows that use all that has a state
(the stages' own `work` is tested in `tests/pipelines`). The environment may hold: `KILL`, victims,
and the rows before their ends; `PAUSE_S`, seconds that each batch takes; `HOLD`, a file that the
last checkpoint waits for (it makes `exporting` beside it meanwhile); `LIMIT_S`, how long MLflow may
be away; `WORKERS`, another number; `COMPUTE`, the waits; `PARALLEL`, `fsdp` instead of `ddp`.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor, nn

from components import logs
from components.params import Compute
from components.ray_training import training_run
from components.tracking import outages
from components.training import loop
from components.training.optimization import OptimizationParams
from components.training.parallel import Sharding, is_sharded, whole_tensors
from components.training.sampler import RowStream, stacked
from components.training.seat import TRAINED, Seat

OPTIMIZATION = OptimizationParams(
    steps=40,
    batch_size=3,
    learning_rate=0.01,
    warmup_steps=5,
    schedule="cosine",
    gradient_clip=1.0,
    accumulate=2,
    checkpoint_every=8,
    log_every=4,
    seed=7,
)
# Those that a history of it has a point for.
STEPS = [*range(OPTIMIZATION.log_every, OPTIMIZATION.steps + 1, OPTIMIZATION.log_every)]
NUM_ROWS = (5, 0, 4, 6, 5, 3)  # of each shard


def without_rate(history: list[dict[str, float]]) -> list[dict[str, float]]:
    """Return the points without time and memory, which no two trainings share."""
    return [
        {k: v for k, v in point.items() if k != "images_per_s" and not k.startswith("system/")}
        for point in history
    ]


class Pictures(NamedTuple):
    hq_BD: Tensor
    lq_BD: Tensor


class Step(nn.Module):
    """Uses everything that has a state: the noise generator, the process's random state, rows."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 16), nn.Linear(16, 6)
        self.dropout = nn.Dropout(0.2)
        self.frozen = nn.Linear(6, 6)
        self.unused = nn.Linear(6, 6)
        self.frozen.requires_grad_(requires_grad=False)

    def forward(self, batch: Pictures, generator: torch.Generator) -> dict[str, Tensor]:
        noise_BD = torch.randn(batch.lq_BD.shape, generator=generator)
        hidden_BD = self.dropout(torch.tanh(self.first(self.frozen(batch.lq_BD) + 0.1 * noise_BD)))
        pixel = (self.last(hidden_BD) - batch.hq_BD).square().mean()
        size = hidden_BD.abs().mean()
        return {"loss": pixel + 0.01 * size, "pixel": pixel, "size": size}


class Rows:
    def __init__(self, stream: RowStream, pause_s: float = 0.0) -> None:
        self._stream, self._pause_s = stream, pause_s

    @property
    def position(self) -> int:
        return self._stream.position

    def seek(self, position: int) -> None:
        self._stream.seek(position)

    def take(self, count: int) -> Pictures:
        time.sleep(self._pause_s)
        rows = self._stream.take(count)
        return Pictures(*(torch.from_numpy(stacked(rows, name)).float() for name in ("hq", "lq")))


class DeadlyRows(Rows):
    """Sends SIGKILL to a process when this rank has read so many rows, once."""

    def __init__(self, stream: RowStream, victim: int, position: int, done: Path) -> None:
        super().__init__(stream)
        self._victim, self._position, self._done = victim, position, done

    def take(self, count: int) -> Pictures:
        if self.position >= self._position and not self._done.exists():
            self._done.touch()
            os.kill(self._victim, signal.SIGKILL)
        return super().take(count)


def shard(index: int) -> pa.Table:
    draw = np.random.default_rng(index)
    columns = {}
    for name in ("hq", "lq"):
        values = draw.standard_normal((NUM_ROWS[index], 6)).astype(np.float16)
        kind = pa.fixed_shape_tensor(pa.float16(), (6,))
        storage = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), 6)
        columns[name] = pa.ExtensionArray.from_storage(kind, storage)
    return pa.table(columns)


def stream(number: int, num_streams: int) -> RowStream:
    return RowStream(
        NUM_ROWS, shard, seed=3, number=number, num_streams=num_streams, shuffle_shards=2
    )


def make_step(parallel: str) -> Step:
    torch.manual_seed(1)
    step = Step()
    if parallel == "fsdp":
        Sharding(torch.device("cpu")).shard(step, [step.first, step.last])
    return step


def save(step: Step, folder: Path, rank: int) -> None:
    """Write the weights, on rank 0; all ranks must call it."""
    whole = whole_tensors(step, trained_only=False) if is_sharded(step) else step.state_dict()
    if rank == 0:
        save_file(whole, folder / "step.safetensors")


def work(config: dict[str, Any], seat: Seat) -> None:
    step = make_step(config["parallel"])

    def batches(number: int) -> Rows:
        rows = stream(number, seat.num_streams)
        for victim, row in config["kills"]:
            done = Path(config["marks"], f"{victim}-{row}")
            is_here = victim == str(number) or (victim == "driver" and number == 0)
            if is_here and not done.exists():
                process = config["driver"] if victim == "driver" else os.getpid()
                return DeadlyRows(rows, process, row, done)
        return Rows(rows, config["pause_s"])

    def export(folder: Path) -> None:
        trained = folder / TRAINED
        trained.mkdir()
        save(step, trained, seat.rank)
        if config["hold"] and seat.rank == 0:
            hold = Path(config["hold"])
            hold.with_name("exporting").touch()
            while not hold.exists():
                time.sleep(0.05)

    loop.train(step, batches, OPTIMIZATION, seat, export=export)


def work_without_ray(rank: int, folder: str, parallel: str = "ddp") -> None:
    """Train as `work` does, uninterrupted, without Ray; for two processes."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", store=dist.FileStore(f"{folder}/store", 2), rank=rank, world_size=2
    )
    step = make_step(parallel)
    points: list[dict[str, float]] = []
    seat = Seat(rank, 2, 2, torch.device("cpu"), None, lambda new, _: points.extend(new))
    loop.train(step, lambda number: Rows(stream(number, 2)), OPTIMIZATION, seat)
    save(step, Path(folder), rank)
    if rank == 0:
        Path(folder, "history.json").write_text(json.dumps(points))
    dist.destroy_process_group()


def main(out: Path) -> None:
    logs.configure()
    outages.LIMIT_S = float(os.environ.get("LIMIT_S", outages.LIMIT_S))
    workers = json.loads(os.environ.get("WORKERS", "2"))
    training = training_run.Training(
        stage="train@small",
        module="components.training.loop",
        params={"optimization": OPTIMIZATION.model_dump()},
        inputs={"features": "none"},
        workers=tuple(workers) if isinstance(workers, list) else workers,
        num_steps=OPTIMIZATION.steps,
    )
    training_run.run(
        training,
        out,
        worker=work,
        config={
            "kills": json.loads(os.environ.get("KILL", "[]")),
            "marks": str(out.parent),
            "driver": os.getpid(),
            "pause_s": float(os.environ.get("PAUSE_S", 0)),
            "hold": os.environ.get("HOLD"),
            "parallel": os.environ.get("PARALLEL", "ddp"),
        },
        compute=Compute(**json.loads(os.environ.get("COMPUTE", "{}"))),
    )


if __name__ == "__main__":
    # By its name: Ray's workers look `work` up in its module, and have another `__main__`.
    from tests import small_training

    small_training.main(Path(sys.argv[1]))
