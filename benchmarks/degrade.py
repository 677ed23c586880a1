"""How fast faces are degraded at 512 x 512 with the paper's ranges, and how much memory it takes.

    python -m benchmarks.degrade [PART ...] [--pairs 200] [--faces 640] [--memory 1000 8000]

- `one_core`: `recipe.draw` and `recipe.make_pair` against a plain loop of the published operations
  (BasicSR's and VQFR's: OpenCV and NumPy, one thread), turn by turn in one process; and how far
  the pixels are apart when both get the same random numbers.
- `workers`: the stage on one and on two Ray workers. The rate is that from when every worker may
  have finished a shard to the last one, reading and writing included; the start of Ray and of its
  workers is told apart.
- `memory`: the largest sum of resident memory (all processes of the stage, sampled) for a small and
  a large table.

Every part that starts Ray runs in a process of its own.
"""

import argparse
import contextlib
import json
import math
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import psutil  # type: ignore[import-untyped]
import pyarrow as pa
import skimage.data

from benchmarks import machine
from components import cluster, images, tables
from components.degradation import recipe
from components.degradation.recipe import Degradation, DegradationParams
from components.images import Image
from components.params import Compute, Params
from components.tables import Made

PARTS = ("one_core", "workers", "memory")
SIZE = 512
PAPER = DegradationParams(
    kernel_size=41, sigma=(0.1, 10), downsample=(0.8, 8), noise=(0, 20), jpeg_quality=(60, 100)
)
ROWS_PER_SHARD = 16
SAMPLES_A_SECOND = 5
TOLERANCE = 1e-3  # share of pixels that may differ by more than a level: JPEG spreads a rounding


def face_picture(number: int) -> Image:
    """Give one of eight pictures of 512 x 512: a public-domain portrait, turned and shifted."""
    picture: Image = skimage.data.astronaut()  # type: ignore[no-untyped-call]
    if number % 2:
        picture = picture[:, ::-1]
    return np.ascontiguousarray(np.roll(picture, 64 * (number % 8), axis=0))


# ---- one core against the published operations


def published_kernel(size: int, sigma_x: float, sigma_y: float, theta: float) -> Any:
    """BasicSR's way: the density at every place of a grid, by the inverse of the covariance."""
    axis = np.arange(-size // 2 + 1.0, size // 2 + 1.0)
    xx, yy = np.meshgrid(axis, axis)
    places = np.stack([xx, yy], axis=-1)
    turn = np.array([[np.cos(theta), -np.sin(theta)], [np.sin(theta), np.cos(theta)]])
    covariance = turn @ np.diag([sigma_x**2, sigma_y**2]) @ turn.T
    kernel = np.exp(-0.5 * np.sum(places @ np.linalg.inv(covariance) * places, axis=2))
    return kernel / np.sum(kernel)


def published(
    hq: Image, drawn: Degradation, noise: npt.NDArray[np.float32] | None = None
) -> npt.NDArray[np.uint8]:
    """VQFR's operations in their order, on floats in [0, 1]; the noise is drawn unless given."""
    height, width = hq.shape[:2]
    image: Any = np.float32(hq / 255.0)
    kernel = published_kernel(len(drawn.kernel), drawn.sigma_x, drawn.sigma_y, drawn.angle)
    image = cv2.filter2D(image, -1, kernel)
    small = (int(width // drawn.scale), int(height // drawn.scale))
    image = cv2.resize(image, small, interpolation=cv2.INTER_LINEAR)
    normal: Any = noise
    if noise is None:
        normal = np.float32(np.random.randn(*image.shape))  # noqa: NPY002 - as published
    image = np.clip(image + normal * np.float32(drawn.noise_sigma / 255.0), 0, 1)
    eight_bits = cv2.convertScaleAbs(image[..., ::-1], alpha=255.0)  # as the coder itself rounds
    coded = cv2.imencode(".jpg", eight_bits, [cv2.IMWRITE_JPEG_QUALITY, drawn.jpeg_quality])[1]
    decoded: Any = cv2.imdecode(coded, cv2.IMREAD_COLOR)
    image = np.float32(decoded[..., ::-1]) / np.float32(255.0)
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(np.clip((image * 255.0).round(), 0, 255), dtype=np.uint8)


def one_core(num_pairs: int) -> dict[str, Any]:
    """Time both on the same faces and degradations, turn by turn."""
    cv2.setNumThreads(1)
    pictures = [face_picture(number) for number in range(8)]
    seconds: dict[str, list[float]] = {"published": [], "ours": []}
    worst, means, far = 0, [], []
    for number in range(-5, num_pairs):
        hq = pictures[number % 8]

        started = time.perf_counter()
        drawn = recipe.draw(PAPER, (SIZE, SIZE), seed=1, face_id=f"{number}", variant=0)
        lq = recipe.make_pair(hq, drawn, PAPER).lq
        ours = time.perf_counter() - started

        started = time.perf_counter()
        published(hq, drawn)
        plain = time.perf_counter() - started

        if number < 0:
            continue  # warming up
        seconds["ours"].append(ours)
        seconds["published"].append(plain)
        difference = np.abs(lq.astype(int) - published(hq, drawn, drawn.noise))
        worst = max(worst, int(difference.max()))
        means.append(float(difference.mean()))
        far.append(float((difference > 1).mean()))
    low, high = _interval_of_ratio(seconds["published"], seconds["ours"])
    return {
        "pairs": num_pairs,
        "published_ms": _milliseconds(seconds["published"]),
        "ours_ms": _milliseconds(seconds["ours"]),
        "ratio": round(sum(seconds["published"]) / sum(seconds["ours"]), 3),
        "ratio_95": [round(low, 3), round(high, 3)],
        "pixels": {
            "mean_difference": round(float(np.mean(means)), 5),
            "share_more_than_1_level": round(float(np.mean(far)), 6),
            "largest_difference": worst,
            "same_within_rounding": bool(np.mean(far) < TOLERANCE),
        },
    }


def _milliseconds(seconds: Sequence[float]) -> dict[str, float]:
    values = 1000 * np.array(seconds)
    return {
        "mean": round(float(values.mean()), 2),
        "median": round(float(np.median(values)), 2),
        "p95": round(float(np.percentile(values, 95)), 2),
    }


def _interval_of_ratio(above: Sequence[float], below: Sequence[float]) -> tuple[float, float]:
    pairs = np.array([above, below])
    chosen = np.random.default_rng(0).integers(0, pairs.shape[1], (2000, pairs.shape[1]))
    sums = pairs[:, chosen].sum(axis=2)
    low, high = np.percentile(sums[0] / sums[1], [2.5, 97.5])
    return float(low), float(high)


# ---- the stage


class SyntheticParams(Params):
    num_faces: int


class SyntheticFaces:
    """Make a shard of faces out of the eight pictures."""

    def __init__(self) -> None:
        self._pngs = [images.encode_png(face_picture(number)) for number in range(8)]

    def __call__(self, numbers: range) -> Made:
        return Made(
            pa.table(
                {
                    "face_id": [f"face-{number:06d}.png" for number in numbers],
                    "split": ["train"] * len(numbers),
                    "hq_png": pa.array([self._pngs[number % 8] for number in numbers], pa.binary()),
                }
            )
        )


def make_faces(out: Path, num_faces: int) -> None:
    """Write a table that the stage can read."""
    starts = range(0, num_faces, ROWS_PER_SHARD)
    tables.build(
        out,
        stage="synthetic faces",
        params=SyntheticParams(num_faces=num_faces),
        inputs={},
        module="components.images",
        work=[range(start, min(start + ROWS_PER_SHARD, num_faces)) for start in starts],
        maker=SyntheticFaces,
        maker_args={},
        compute=Compute(),
    )


@contextlib.contextmanager
def sampled_memory() -> Iterator[dict[str, float]]:
    """Watch this process and all below it; fills in the largest sums of resident memory, in MiB."""
    peak = {"python": 0.0, "ray": 0.0}
    done = threading.Event()

    def watch() -> None:
        own = psutil.Process()
        while not done.wait(1 / SAMPLES_A_SECOND):
            sums = {"python": 0.0, "ray": 0.0}
            for process in [own, *own.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    # Workers are called `ray::CLASS`; raylet and gcs_server are Ray's own.
                    is_python = process.pid == own.pid or process.name().startswith("ray::")
                    sums["python" if is_python else "ray"] += process.memory_info().rss / 2**20
            for name, value in sums.items():
                peak[name] = max(peak[name], value)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()


def run_stage(faces: Path, pairs: Path, workers: int) -> dict[str, Any]:
    """Run the stage once on a fresh local Ray; only for a process of its own."""
    from pipelines import degrade

    params = degrade.DegradeParams(
        faces=faces, pairs=pairs, seed=42, variants=1, test_variants=1, recipe=PAPER
    )
    with sampled_memory() as peak:
        started = time.time()
        with cluster.local(num_cpus=2):
            ray_is_up, cpu_before = time.time(), time.process_time()
            table = degrade.run(params, Compute(workers=workers))
            ended, driver_cpu_s = time.time(), time.process_time() - cpu_before
    written = sorted(file.stat().st_mtime for file in table.path.glob("*.parquet"))
    steady_rows = table.num_rows - workers * ROWS_PER_SHARD  # the last shard may be a short one
    return {
        "workers": workers,
        "faces": table.num_rows,
        "shards": len(table.shards),
        "start_ray_s": round(ray_is_up - started, 2),
        "first_shard_s": round(written[0] - ray_is_up, 2),
        "stage_s": round(ended - ray_is_up, 2),
        "faces_per_s": round(steady_rows / (written[-1] - written[workers - 1]), 2),
        "driver_cpu_s": round(driver_cpu_s, 2),
        "peak_driver_and_workers_mib": round(peak["python"], 1),
        "peak_ray_itself_mib": round(peak["ray"], 1),
    }


def in_its_own_process(*arguments: str) -> Any:
    command = [sys.executable, "-m", "benchmarks.degrade", *arguments]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(answer.stdout.splitlines()[-1])


def measured_stage(folder: Path, num_faces: int, workers: Sequence[int]) -> list[dict[str, Any]]:
    """Run the stage on the same faces with each number of workers, and clean up."""
    faces = folder / f"faces-{num_faces}"
    in_its_own_process("--make-faces", str(faces), str(num_faces))
    measured = []
    for count in workers:
        pairs = folder / "pairs"
        measured.append(in_its_own_process("--run-stage", str(faces), str(pairs), str(count)))
        print(measured[-1], file=sys.stderr, flush=True)
        shutil.rmtree(pairs)
    shutil.rmtree(faces)
    return measured


def compare_workers(folder: Path, num_faces: int) -> dict[str, Any]:
    """Compare two workers with one; one runs twice: a machine that slows down meanwhile is seen."""
    runs = measured_stage(folder, num_faces, workers=[1, 2, 1])
    one = math.sqrt(runs[0]["faces_per_s"] * runs[2]["faces_per_s"])
    return {"runs": runs, "ratio": round(runs[1]["faces_per_s"] / one, 3)}


def compare_memory(folder: Path, sizes: Sequence[int]) -> dict[str, Any]:
    """Compare the peak of a large table with that of a small one, on two workers."""
    small, large = (measured_stage(folder, size, workers=[2])[0] for size in sizes)
    key = "peak_driver_and_workers_mib"
    return {"runs": [small, large], "ratio": round(large[key] / small[key], 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the degradation of faces.")
    parser.add_argument("parts", nargs="*", default=PARTS, metavar="PART", help=" ".join(PARTS))
    parser.add_argument("--pairs", type=int, default=200, help="of the comparison on one core")
    parser.add_argument("--faces", type=int, default=640, help="of the comparison of workers")
    parser.add_argument("--memory", type=int, nargs=2, default=[1000, 8000], metavar="FACES")
    parser.add_argument("--make-faces", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--run-stage", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.make_faces:
        make_faces(Path(arguments.make_faces[0]), int(arguments.make_faces[1]))
        print("null")
        return
    if arguments.run_stage:
        faces, pairs, workers = arguments.run_stage
        print(json.dumps(run_stage(Path(faces), Path(pairs), int(workers))))
        return

    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(unknown)}; there are {', '.join(PARTS)}")
    before = machine.facts()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="hdrface-bench-") as folder:
        if "one_core" in arguments.parts:
            results["one_core"] = one_core(arguments.pairs)
        if "workers" in arguments.parts:
            results["workers"] = compare_workers(Path(folder), arguments.faces)
        if "memory" in arguments.parts:
            results["memory"] = compare_memory(Path(folder), arguments.memory)
    print(machine.save("degrade", before, results))


if __name__ == "__main__":
    main()
