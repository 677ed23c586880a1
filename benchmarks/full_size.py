"""One training step at the paper's size, with random weights: what it takes, and what was planned.

    python -m benchmarks.full_size [sd21|qwen] [--precision bf16] [--device cuda] [--keep]
                                   [--steps 3] [--tiny]

`sd21`: the profile paper-sd21, batch 1: SD 2.1-base at 512 x 512 by LoRA of rank 16 against SDXL's
encoding half, all four losses. `qwen`: the profile paper-qwen with 2 of Qwen-Image's 60 blocks and
2 of Wan's 30, sharded over two processes; the vectors of the timestep train in place of the
matrices that make them. All that can be is computed again, unless `--keep`.

The weights are made in a temporary folder (5 GB); nothing is downloaded. Memory is the kernel's own
high-water mark of each process (VmHWM), set back after loading, as the history of a training
reports it; of a GPU, `max_memory_allocated`. Beside it stands what `hdrface plan` counts: without
the program itself, its libraries, and workspaces. A processor without bfloat16 instructions takes
hours in bf16. `--tiny` tries the script on the networks of the profile tiny.
"""

import argparse
import dataclasses
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import torch
import torch.distributed as dist
from torch import multiprocessing

from benchmarks import machine, paper_training
from benchmarks.paper_training import Rows, Shapes
from components.history import SYSTEM, HistoryPoint
from components.params import Compute
from components.training import loop, ways
from components.training.blueprint import blueprint
from components.training.memory import Memory
from components.training.restorer_training import RestorerTraining
from components.training.seat import Seat
from components.training.usage import memory_used

BACKBONES = ("sd21", "qwen")
PROCESSES = {"sd21": 1, "qwen": 2}
NUM_BLOCKS = 2  # of Qwen-Image and Wan
# What the profile paper-BACKBONE has otherwise, beside places, precision and processes.
CHANGES = {
    "sd21": [],
    "qwen": ["time_vectors=true", "parallel=fsdp", "optimization.accumulate=1"],
}
_GB = 1e9


@dataclasses.dataclass(frozen=True)
class Job:
    """What a process needs to train."""

    folder: Path  # of this benchmark: weights, and the processes' results
    training: RestorerTraining
    compute: Compute
    shapes: Shapes
    processes: int
    device: str
    steps: int


class _EnoughError(Exception):
    """The steps are measured. The loop would go on, and write a checkpoint of gigabytes."""


def train(rank: int, job: Job) -> None:
    """Train in this process and write what it took to `RANK.json`."""
    device = _join(rank, job)
    program = psutil.Process().memory_info().rss / _GB if device.type == "cpu" else 0.0
    step, opponent = job.training.start(device, job.compute.recompute)
    loading = _peak_gb(memory_used(device))
    _forget_peak(device)
    points: list[HistoryPoint] = []

    def report(found: list[HistoryPoint], checkpoint: Path | None) -> None:
        del checkpoint
        points.extend(found)
        if len(points) == job.steps:
            raise _EnoughError

    seat = Seat(rank, job.processes, job.processes, device, None, report)
    try:
        loop.train(
            step,
            lambda _: Rows(job.shapes, device),
            job.training.optimization,
            seat,
            opponent=opponent,
        )
    except _EnoughError:
        last = {name: value for name, value in points[-1].items() if not name.startswith(SYSTEM)}
        found = {
            "peak_gb": _peak_gb(points[-1]),
            "program_gb": program,
            "loading_peak_gb": loading,
            "last_step": last,
        }
        (job.folder / f"{rank}.json").write_text(json.dumps(found), encoding="utf-8")
    dist.destroy_process_group()


def _join(rank: int, job: Job) -> torch.device:
    """Meet the other processes; return this one's device."""
    device, backend = torch.device("cpu"), "gloo"
    if job.device == "cuda":
        device, backend = torch.device("cuda", rank), "nccl"
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // job.processes))
    meeting = str(job.folder / "meeting")
    store = dist.FileStore(meeting, job.processes)  # type: ignore[attr-defined]
    dist.init_process_group(backend, store=store, rank=rank, world_size=job.processes)
    return device


def _peak_gb(point: HistoryPoint) -> float:
    return point.get(f"{SYSTEM}gpu_memory_gb", point[f"{SYSTEM}host_memory_gb"])


def _forget_peak(device: torch.device) -> None:
    """Let the high-water mark begin anew; elsewhere than on Linux it stays that of loading."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # man 5 proc


def peak_of(memory: Memory, steps: int) -> float:
    """Return the bytes of the fullest moment, without what is reserved on a GPU.

    In its first step, AdamW makes the moments when the activations are gone.
    """
    both = memory.optimizer, memory.activations
    return memory.weights + memory.gradients + (max(both) if steps == 1 else sum(both))


def measure(folder: Path, backbone: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train in processes of their own, and return what they took beside what was planned."""
    processes = PROCESSES[backbone]
    if arguments.device == "cuda":
        processes = min(processes, torch.cuda.device_count())
    changes = [*CHANGES[backbone], f"precision={arguments.precision}", f"workers={processes}"]
    recompute = () if arguments.keep else ways.EVERYTHING
    params, compute = paper_training.parameters(backbone, folder, changes, recompute)
    described = paper_training.sizes(backbone, num_blocks=NUM_BLOCKS, tiny=arguments.tiny)
    way = ways.ways(params, compute, f"train.{backbone}", processes)[0]
    counted = blueprint(params, backbone, "sdfm", described)
    memory = ways.estimate(counted, params, way, memory_bytes=0, flops=1).memory
    planned_gb = peak_of(memory, arguments.steps) / _GB
    if arguments.device == "cpu" and not arguments.tiny:
        _refuse_if_full(backbone, processes * (planned_gb + memory.reserved / _GB))
    paper_training.make_weights(folder, backbone, params, described)
    shapes = paper_training.shapes_of(backbone, described)
    made = paper_training.training(params, backbone, described, shapes)
    job = Job(folder, made, compute, shapes, processes, arguments.device, arguments.steps)
    multiprocessing.spawn(train, (job,), nprocs=processes)  # type: ignore[attr-defined, no-untyped-call]
    found = [json.loads((folder / f"{rank}.json").read_bytes()) for rank in range(processes)]
    last, *_ = [one.pop("last_step") for one in found]  # the same of all
    return {
        "side": described.side,
        "changes": changes,
        "recompute": recompute,
        "planned_peak_gb": planned_gb,
        "planned_gb": {key: value / _GB for key, value in dataclasses.asdict(memory).items()},
        "processes": found,
        "all_processes_gb": sum(one["peak_gb"] for one in found),
        "seconds_a_step": processes / last["images_per_s"],
        "last_step": last,
    }


def _refuse_if_full(backbone: str, needed_gb: float) -> None:
    free_gb = psutil.virtual_memory().available / _GB
    if needed_gb > free_gb:
        raise SystemExit(
            f"{backbone} takes about {needed_gb:.1f} GB, and {free_gb:.1f} GB are free: try the "
            "script with --tiny, or take a machine with more memory"
        )


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.full_size")
    parser.add_argument("backbone", nargs="?", choices=BACKBONES, help="both, if none is given")
    parser.add_argument("--precision", choices=("float32", "bf16"), default="float32")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--keep", action="store_true", help="keep all activations")
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--tiny", action="store_true", help="small networks; writes no results")
    arguments = parser.parse_args()
    before = machine.facts()
    how = {key: getattr(arguments, key) for key in ("precision", "device", "steps")}
    how |= {key: before[key] for key in ("date", "git", "load_before")}
    rows = machine.kept("full_size")  # a run of one backbone leaves the other's row
    for backbone in [arguments.backbone] if arguments.backbone else BACKBONES:
        with tempfile.TemporaryDirectory(prefix="full-size-") as name:
            os.environ["TORCH_HOME"] = name  # where the perceptual losses' networks are looked for
            rows[backbone] = {**how, **measure(Path(name), backbone, arguments)}
        _tell(backbone, rows[backbone])
    if not arguments.tiny:
        print(machine.save("full_size", before, rows))


def _tell(backbone: str, row: Mapping[str, Any]) -> None:
    for rank, process in enumerate(row["processes"]):
        print(
            f"{backbone}, process {rank}: peak {process['peak_gb']:.1f} GB, of it the program "
            f"{process['program_gb']:.1f}; planned {row['planned_peak_gb']:.1f} without it",
            flush=True,
        )
    print(
        f"{backbone}: all processes {row['all_processes_gb']:.1f} GB, "
        f"{row['seconds_a_step']:.0f} s a step, loss {row['last_step']['loss']:.3g}",
        flush=True,
    )


if __name__ == "__main__":
    main()
