"""A small stage to kill: every shard takes a while, and some items are rejected.

python slow_stage.py OUT SECONDS_A_SHARD WORKERS
"""

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from components import logs, tables
from components.params import Compute, Params
from components.tables import Made, Rejection, Table

NUM_SHARDS = 8
ROWS = 3


class SlowParams(Params):
    seed: int = 1


@dataclass
class SlowMaker:
    """Three rows per item, drawn from the item's number; nothing of item 5 can be used."""

    seconds: float
    dies_at: int | None = None  # SIGKILL, once, while it makes this item
    died: Path = Path("died")
    fails_at: int | None = None

    def __call__(self, item: int) -> Made:
        time.sleep(self.seconds)
        if item == self.dies_at and not self.died.exists():
            self.died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if item == self.fails_at:
            raise ValueError(f"item {item} cannot be made")
        generator = np.random.default_rng(item)
        tokens = generator.standard_normal((ROWS, 5, 4)).astype(np.float16)
        rows = pa.table(
            {
                "face_id": [f"face-{item}-{row}" for row in range(ROWS)],
                "split": pa.array(["train", "test", "train"]),
                "hq_png": pa.array([generator.bytes(2000) for _ in range(ROWS)], pa.binary()),
                "tokens": tables.tensor_column(tokens),
            }
        )
        if item == 5:
            return Made(rows.slice(0, 0), [Rejection(f"face-{item}", "no face found")])
        return Made(rows, [Rejection(f"face-{item}-x", "too small")] if item % 3 == 0 else [])


class ThreadCounter:
    def __call__(self, _item: int) -> Made:
        import cv2
        import torch

        threads = {"torch": [torch.get_num_threads()], "cv2": [cv2.getNumThreads()]}
        return Made(pa.table(threads | {"folder": [str(Path.cwd())]}), [])


def build(
    out: Path, maker: SlowMaker, *, workers: int | None = None, params: SlowParams | None = None
) -> Table:
    """Build the table with a maker made from the same arguments as `maker`."""
    return tables.build(
        out,
        stage="slow",
        params=params or SlowParams(),
        inputs={"pictures": "1a2b"},
        module="components.images",
        work=list(range(NUM_SHARDS)),
        maker=SlowMaker,
        maker_args=vars(maker),
        compute=Compute(workers=workers),
    )


if __name__ == "__main__":
    logs.configure()
    build(Path(sys.argv[1]), SlowMaker(float(sys.argv[2])), workers=int(sys.argv[3]))
