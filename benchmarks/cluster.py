"""How `degrade` and `features` grow with the number of faces: time, memory, and Ray's part in both.

Generated faces of 64² go through both stages on a local Ray, each size in a process of its own.
A shard's work is measured once more in this process without Ray; what a stage takes beyond its
shards' work is Ray's (start, scheduling, serialization), or lost where two workers share a core.
From these follows when more workers stop helping: when the driver cannot hand out shards as fast.

    python -m benchmarks.cluster [SIZES...]     # 1000 4000 16000
"""

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil  # type: ignore[import-untyped]
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks import machine
from benchmarks.stages import REPOSITORY, copy_sources
from components import cluster, images, tables
from components.params import Compute
from components.tables.unfinished import Unfinished
from components.weights.shared import share
from pipelines import degrade, features, weights

SIZES = (1000, 4000, 16000)
FACES_PER_SHARD = 50
WORKERS = 2
TIMED_SHARDS = 4
FEW = Path("data/few")  # that a stand-in autoencoder is made from, whatever the number of faces
NODES, WORKERS_A_NODE, FFHQ_FACES = 100, 16, 70_000


class FaceMaker:
    """Generate faces: smooth colours and some noise, as large as a photograph's when encoded."""

    def __call__(self, shard: int) -> tables.Made:
        rng = np.random.default_rng(shard)
        rows = []
        for index in range(FACES_PER_SHARD):
            coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            face = cv2.resize(coarse, (64, 64), interpolation=cv2.INTER_CUBIC)
            face = np.clip(face + rng.normal(0, 4, face.shape), 0, 255).astype(np.uint8)
            name = f"{shard:05d}-{index:03d}.png"
            row = {"face_id": name, "file": name, "split": "train" if index else "test"}
            rows.append({**row, "hq_png": images.encode_png(face)})
        return tables.Made(pa.Table.from_pylist(rows))


class CopyMaker:
    """Take the degraded faces for restorations: to restore them is another stage's time."""

    def __init__(self, *, pairs: tables.Table) -> None:
        self._pairs = pairs

    def __call__(self, shard: int) -> tables.Made:
        rows = self._pairs.read_shard(shard, ["face_id", "variant", "split", "lq_png"])
        train = rows.filter(pc.equal(rows["split"], "train")).drop_columns("split")
        return tables.Made(train.rename_columns(["face_id", "variant", "sr_png"]))


class Memory:
    """The largest private memory of this process and of any worker while the block runs, in MB."""

    def __enter__(self) -> "Memory":
        self.driver_mb = self.worker_mb = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        own = psutil.Process()
        while not self._over.wait(0.2):
            self.driver_mb = max(self.driver_mb, _private_mb(own))
            for process in own.children(recursive=True):
                try:
                    if "ShardWriter" in "".join(process.cmdline()):
                        self.worker_mb = max(self.worker_mb, _private_mb(process))
                except psutil.Error:
                    continue


def _private_mb(process: Any) -> float:
    info = process.memory_info()
    return float(info.rss - info.shared) / 1e6


def measure(stage: Callable[[], tables.Table], maker: Callable[[], Any]) -> dict[str, float]:
    """Run a stage, then some of its shards here without Ray."""
    started = time.perf_counter()
    with Memory() as memory:
        table = stage()
    wall_s = time.perf_counter() - started
    num_shards = len(table.shards)
    make = maker()
    make(0)  # the first is slow
    with tempfile.TemporaryDirectory() as folder:
        alone = Unfinished.resume(Path(folder) / "table", "0" * 8, TIMED_SHARDS)
        started = time.perf_counter()
        for shard in range(TIMED_SHARDS):
            alone.keep(shard, make(shard))
        shard_s = (time.perf_counter() - started) / TIMED_SHARDS
    return {
        "seconds": wall_s,
        "shards": num_shards,
        "shard_s": shard_s,
        "work_s": num_shards * shard_s / WORKERS,
        "driver_mb": memory.driver_mb,
        "worker_mb": memory.worker_mb,
    }


def run_one(num_faces: int) -> dict[str, dict[str, float]]:
    """Measure both stages in the working directory, which holds a copy of the sources."""
    cluster.limit_threads(1)
    compute = Compute(workers=WORKERS)
    shards = range(num_faces // FACES_PER_SHARD)
    results = {}
    with cluster.local(num_cpus=WORKERS):
        params = degrade.DegradeParams.load("degrade")
        one = {"variants": 1, "test_variants": 1}
        params = params.model_copy(update=one)
        faces = _build(params.faces, "faces", FaceMaker, {}, shards, compute)
        results["degrade"] = measure(
            lambda: degrade.run(params, compute),
            lambda: degrade.PairMaker(faces=faces, params=params),
        )
        pairs = tables.Table.open(params.pairs)
        wanted = features.FeaturesParams.load("features.sd21")
        copies = _build(
            wanted.intermediates, "intermediates", CopyMaker, {"pairs": pairs}, shards, compute
        )
        _build(FEW, "faces", FaceMaker, {}, range(1), compute)
        for name in ("sd21", "dinov3"):
            weights.run(weights.WeightsParams.load(f"weights.{name}"), name)
        results["features"] = measure(
            lambda: features.run(wanted, compute, "sd21"),
            lambda: features.FeatureMaker(
                pairs=pairs,
                intermediates=copies,
                weights=share(wanted.weights),
                encoder=share(wanted.encoder),
                params=wanted,
                backbone="sd21",
                size=images.side(pairs.first("hq_png").as_py()),
            ),
        )
    return results


def _build(
    out: Path, stage: str, maker: type, arguments: dict[str, Any], work: range, compute: Compute
) -> tables.Table:
    return tables.build(
        out,
        stage=stage,
        params=compute,
        inputs={},
        module="components.images",
        work=work,
        maker=maker,
        maker_args=arguments,
        compute=compute,
    )


def in_own_process(num_faces: int) -> dict[str, dict[str, float]]:
    """Measure one size where nothing of another is left in memory."""
    with tempfile.TemporaryDirectory(prefix="hdrface-cluster-") as folder:
        copy_sources(Path(folder))
        subprocess.run(
            [
                sys.executable,
                "-m",
                "pipelines.cli",
                "config",
                "use",
                "smoke",
                f"weights.sd21.faces={FEW}",
            ],
            cwd=folder,
            check=True,
        )
        # By its name: workers look its makers up in its module.
        code = (
            f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); import json; "
            f"from benchmarks import cluster; print(json.dumps(cluster.run_one({num_faces})))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=folder,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        measured: dict[str, dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
        return measured


def summary(by_size: dict[int, dict[str, float]]) -> dict[str, Any]:
    """Say how a stage grows, and what a hundred nodes would make of it.

    Its time is `start + faces x face`, the line that is nearest to all sizes in shares of their
    times; how far the furthest is from it says how linear the stage is.
    """
    sizes = np.array(sorted(by_size))
    rows = [by_size[size] for size in sizes]
    seconds = np.array([row["seconds"] for row in rows])
    face_s, start_s = np.polyfit(sizes, seconds, 1, w=1 / seconds)
    off_line = np.abs(start_s + sizes * face_s - seconds) / seconds
    shard_s = float(np.mean([row["shard_s"] for row in rows]))
    # What a shard takes beyond its share of the work: at most this is one driver's work for it.
    dispatch_s = max(0.0, float(face_s) * FACES_PER_SHARD - shard_s / WORKERS)
    shards = FFHQ_FACES / FACES_PER_SHARD
    turns = np.ceil(shards / (NODES * WORKERS_A_NODE))  # of shards that a worker makes
    return {
        "start_s": round(float(start_s), 2),
        "face_ms": round(float(face_s) * 1000, 3),
        "furthest_from_the_line": round(float(off_line.max()), 3),
        "worker_memory_ratio": round(rows[-1]["worker_mb"] / rows[0]["worker_mb"], 3),
        "driver_memory_ratio": round(rows[-1]["driver_mb"] / rows[0]["driver_mb"], 3),
        "ray_share": {
            str(size): round(max(0.0, 1 - row["work_s"] / row["seconds"]), 3)
            for size, row in zip(sizes, rows, strict=True)
        },
        "shard_ms": round(shard_s * 1000, 1),
        "dispatch_ms_a_shard": round(dispatch_s * 1000, 1),
        "workers_that_one_driver_feeds": round(shard_s / dispatch_s, 1) if dispatch_s else None,
        "ffhq_on_100_nodes_s": {
            "work": round(float(turns) * shard_s, 1),
            "dispatch": round(shards * dispatch_s, 1),
        },
    }


def main() -> None:
    before = machine.facts()
    sizes = [int(word) for word in sys.argv[1:]] or list(SIZES)
    measured = {size: in_own_process(size) for size in sizes}
    results: dict[str, Any] = {}
    for stage in ("degrade", "features"):
        by_size = {size: measured[size][stage] for size in sizes}
        rounded = {
            str(size): {key: round(value, 3) for key, value in row.items()}
            for size, row in by_size.items()
        }
        results[stage] = {"sizes": rounded, **summary(by_size)}
        for size, row in by_size.items():
            print(
                f"{stage:9} {size:6} faces {row['seconds']:7.1f} s, "
                f"worker {row['worker_mb']:.0f} MB, driver {row['driver_mb']:.0f} MB"
            )
        print(json.dumps(summary(by_size), indent=1))
    machine.save("cluster", before, results)


if __name__ == "__main__":
    main()
