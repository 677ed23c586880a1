"""One training step at the paper's size, with random weights: what it takes, and what was planned.

    python -m benchmarks.full_size [sd21|qwen] [--precision bf16] [--device cuda] [--keep]
                                   [--steps 3] [--tiny]

`sd21`: the profile paper-sd21, batch 1: SD 2.1-base at 512 x 512 by LoRA of rank 16 against SDXL's
encoding half, all four losses. `qwen`: the profile paper-qwen with 2 of Qwen-Image's 60 blocks and
2 of Wan's 30, sharded over two processes; the vectors of the timestep train in place of the
matrices that make them. All that can be is computed again, unless `--keep`.

The weights are made in a temporary folder (5 GB), where no download is needed. Memory is the
kernel's own high-water mark of each process (VmHWM), set back after loading, as the history of a
training reports it; of a GPU, `max_memory_allocated`. Beside it stands what `hdrface plan` counts:
without the program itself, its libraries, and workspaces. A processor without bfloat16
instructions takes hours in bf16. `--tiny` tries the script on the networks of the profile tiny.
"""

import argparse
import dataclasses
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil  # type: ignore[import-untyped]
import yaml

from benchmarks import machine
from components import profiles
from components.history import SYSTEM, HistoryPoint
from components.params import Compute

if TYPE_CHECKING:
    from components.training.blueprint import Sizes
    from components.training.memory import Memory
    from components.training.restorer_training import RestorerTraining
    from components.training.training_params import TrainingParams

BACKBONES = ("sd21", "qwen")
PROCESSES = {"sd21": 1, "qwen": 2}
NUM_BLOCKS = 2  # of Qwen-Image and Wan
# What the profile paper-BACKBONE has otherwise, beside places and processes.
CHANGES = {
    "sd21": [],
    "qwen": ["time_vectors=true", "parallel=fsdp", "optimization.accumulate=1"],
}
_GB = 1e9


@dataclasses.dataclass(frozen=True)
class Job:
    """What a process needs to train."""

    folder: Path  # of this benchmark: weights, and the processes' results
    training: "RestorerTraining"
    compute: Compute
    processes: int
    device: str
    steps: int
    latent_shape: tuple[int, ...]
    token_shape: tuple[int, ...]


class Rows:
    """The same random face again and again, as a table of features has it."""

    def __init__(self, job: Job, device: Any) -> None:
        self.position, self._job, self._device = 0, job, device

    def seek(self, position: int) -> None:
        self.position = position

    def take(self, count: int) -> Any:
        import torch

        from components.training.step import Batch

        self.position += count
        job, draw = self._job, torch.Generator().manual_seed(1)
        side = job.training.spec.size
        hq = torch.rand(count, 3, side, side, generator=draw)
        latents = torch.randn(2, count, *job.latent_shape, generator=draw)
        tokens = torch.randn(2, count, *job.token_shape, generator=draw)
        return Batch(*(one.to(self._device) for one in (hq, *latents, *tokens)))


class _EnoughError(Exception):
    """The steps are measured. The loop would go on, and write a checkpoint of gigabytes."""


def train(rank: int, job: Job) -> None:
    """Train in this process and write what it took to `RANK.json`."""
    import torch
    import torch.distributed as dist

    from components import logs
    from components.training import loop
    from components.training.seat import Seat
    from components.training.usage import memory_used

    logs.configure()
    device, backend = torch.device("cpu"), "gloo"
    if job.device == "cuda":
        device, backend = torch.device("cuda", rank), "nccl"
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(max(1, len(psutil.Process().cpu_affinity()) // job.processes))
    store = dist.FileStore(str(job.folder / "meeting"), job.processes)
    dist.init_process_group(backend, store=store, rank=rank, world_size=job.processes)
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
            step, lambda _: Rows(job, device), job.training.optimization, seat, opponent=opponent
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


def _peak_gb(point: HistoryPoint) -> float:
    return point.get(f"{SYSTEM}gpu_memory_gb", point[f"{SYSTEM}host_memory_gb"])


def _forget_peak(device: Any) -> None:
    """Let the high-water mark begin anew; Linux only: elsewhere it stays that of loading."""
    import torch

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # man 5 proc


def sizes(backbone: str, values: Mapping[str, Any], *, tiny: bool) -> "Sizes":
    """Return the sizes of all networks: the published ones with few blocks, or the tiny ones."""
    from components.training.blueprint import Sizes
    from components.weights.published_sizes import PUBLISHED_SIZES

    found = []
    for name in (backbone, f"{backbone}-discriminator", "dinov3"):
        described = values["weights"][name]
        published = described["published"] or {}
        network = dict(described["stand_in"] or PUBLISHED_SIZES[published["id"]])
        for part in ("generator", "discriminator"):
            if not tiny and "num_layers" in (network.get(part) or {}):
                network[part] = {**network[part], "num_layers": NUM_BLOCKS}
        found.append(network)
    return Sizes(values["faces"]["size"], *found, values["features"][backbone]["encoder_size"])


def profile(
    backbone: str, folder: Path, processes: int, *, precision: str, recompute: bool
) -> tuple["TrainingParams", Compute]:
    """Return the parameters of the profile paper-BACKBONE, on weights in `folder`."""
    from components.training.training_params import TrainingParams
    from components.training.ways import EVERYTHING
    from pipelines.stage import Stage

    section = f"train.{backbone}"
    changes = [
        *CHANGES[backbone],
        f"weights={folder / backbone}",
        f"discriminator.weights={folder / backbone}-discriminator",
        f"precision={precision}",
        f"workers={processes}",
        "validation=null",
        "optimization.log_every=1",
    ]
    if backbone == "sd21":
        changes.append(f"losses.identity.network={folder / 'arcface.pth'}")
    again = ",".join(EVERYTHING) if recompute else ""
    overrides = [f"{section}.{change}" for change in changes]
    text = profiles.compose(f"paper-{backbone}", [*overrides, f"compute.train.recompute=[{again}]"])
    values = yaml.safe_load(text)
    params = Stage.load("train").params.parse(section, values)
    assert isinstance(params, TrainingParams)
    return params, Compute.parse("compute.train", values)


def planned(
    params: "TrainingParams", compute: Compute, backbone: str, described: "Sizes", processes: int
) -> "Memory":
    """Return what `hdrface plan` counts for one process."""
    from components.training import ways
    from components.training.blueprint import blueprint

    counted = blueprint(params, backbone, "sdfm", described)
    way = ways.ways(params, compute, f"train.{backbone}", processes)[0]
    return ways.estimate(counted, params, way, memory_bytes=0, flops=1).memory


def peak_of(memory: "Memory", steps: int) -> float:
    """Return the bytes of the fullest moment, without what is reserved on a GPU.

    In its first step, AdamW makes the moments when the activations are gone.
    """
    both = memory.optimizer, memory.activations
    return memory.weights + memory.gradients + (max(both) if steps == 1 else sum(both))


def make_weights(folder: Path, backbone: str, params: "TrainingParams", described: "Sizes") -> None:
    """Write all networks that the training loads."""
    from benchmarks import random_weights

    assert described.discriminator is not None
    random_weights.write_backbone(folder / backbone, backbone, described.backbone)
    random_weights.write_discriminator(
        folder / f"{backbone}-discriminator", backbone, described.discriminator
    )
    if params.losses.identity is not None:
        random_weights.write_arcface(params.losses.identity.network)
    if params.losses.perceptual is not None:
        random_weights.write_perceptual(params.losses.perceptual.network)


def job_of(
    folder: Path,
    backbone: str,
    params: "TrainingParams",
    compute: Compute,
    described: "Sizes",
    **how: Any,
) -> Job:
    """Describe the training for its processes."""
    import torch

    from components.backbones.catalogue import FAMILIES
    from components.training.restorer_training import RestorerTraining

    assert described.encoder is not None
    encoder, side = described.encoder["encoder"], described.encoder_side
    assert side is not None
    num_tokens = 1 + encoder["num_register_tokens"] + (side // encoder["patch_size"]) ** 2
    width = encoder["hidden_size"]
    family = FAMILIES[backbone].of_sizes(described.backbone["vae"], described.backbone["generator"])
    image = torch.empty(1, 3, described.side, described.side, device="meta")
    training = RestorerTraining.of(
        params,
        params.spec(backbone, "sdfm", size=described.side, encoder_size=side),
        token_width=width,
        needs={},
        licences=(),
        lineage={},
    )
    latent_shape = tuple(family.encode(image).shape[1:])
    return Job(
        folder, training, compute, **how, latent_shape=latent_shape, token_shape=(num_tokens, width)
    )


def measure(folder: Path, backbone: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train in processes of their own, and return what they took beside what was planned."""
    import torch

    processes = PROCESSES[backbone]
    if arguments.device == "cuda":
        processes = min(processes, torch.cuda.device_count())
    params, compute = profile(
        backbone,
        folder,
        processes,
        precision=arguments.precision,
        recompute=not arguments.keep,
    )
    values = yaml.safe_load(profiles.compose("tiny" if arguments.tiny else f"paper-{backbone}"))
    described = sizes(backbone, values, tiny=arguments.tiny)
    memory = planned(params, compute, backbone, described, processes)
    counted = peak_of(memory, arguments.steps) / _GB
    _refuse_if_full(backbone, processes * (counted + memory.reserved / _GB), arguments)
    make_weights(folder, backbone, params, described)
    how = {"processes": processes, "device": arguments.device, "steps": arguments.steps}
    job = job_of(folder, backbone, params, compute, described, **how)
    torch.multiprocessing.spawn(train, (job,), nprocs=processes)  # type: ignore[no-untyped-call]
    found = [json.loads((folder / f"{rank}.json").read_bytes()) for rank in range(processes)]
    parts = {key: value / _GB for key, value in dataclasses.asdict(memory).items()}
    last = found[0].pop("last_step")
    return {
        "side": described.side,
        "recompute": list(compute.recompute),
        "changes": CHANGES[backbone],
        "planned_peak_gb": counted,
        "planned_gb": parts,
        "processes": [{key: one[key] for key in found[0]} for one in found],
        "all_processes_gb": sum(one["peak_gb"] for one in found),
        "seconds_a_step": processes / last["images_per_s"],
        "last_step": last,
    }


def _refuse_if_full(backbone: str, needed_gb: float, arguments: argparse.Namespace) -> None:
    free = psutil.virtual_memory().available / _GB
    if arguments.device == "cpu" and not arguments.tiny and needed_gb > free:
        raise SystemExit(
            f"{backbone} takes about {needed_gb:.1f} GB, and {free:.1f} GB are free: try the "
            "script with --tiny, or take a machine with more memory"
        )


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.full_size")
    parser.add_argument("backbone", nargs="*", choices=[*BACKBONES, []], default=list(BACKBONES))
    parser.add_argument("--precision", choices=("float32", "bf16"), default="float32")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--keep", action="store_true", help="keep all activations")
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--tiny", action="store_true", help="small networks; writes no results")
    arguments = parser.parse_args()
    before = machine.facts()
    rows = {}
    for backbone in arguments.backbone:
        with tempfile.TemporaryDirectory(prefix="full-size-") as name:
            os.environ["TORCH_HOME"] = name  # where the perceptual losses' networks are looked for
            rows[backbone] = measure(Path(name), backbone, arguments)
        _tell(backbone, rows[backbone])
    if not arguments.tiny:
        how = {key: getattr(arguments, key) for key in ("precision", "device", "steps")}
        print(machine.save("full_size", before, {**how, **rows}))


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
