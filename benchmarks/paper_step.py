"""Steps a second of a paper profile, against a plain loop in the reference's manner.

    python -m benchmarks.paper_step [sd21|qwen] [--device cuda] [--steps 30] [--tiny]

`ours`: the training loop on rows of a table of features, in bf16 on a GPU. `plain`: float32
(PyTorch's default: TF32 in convolutions alone), a bare loop with DINOv3 and the autoencoder's
encoder live: each step sees two pictures and encodes two. Networks (random, in the published
layout; of Qwen-Image and Wan 2 blocks), losses, opponent and batch are the same, and each side has
a process of its own. The first third of the steps is warm-up. Five minutes on one GPU.
"""

import argparse
import json
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import multiprocessing

from benchmarks import machine, paper_training, random_weights
from benchmarks.paper_training import Rows, Shapes
from components.backbones.catalogue import FAMILIES
from components.encoders.dinov3 import DINOv3
from components.history import SYSTEM, HistoryPoint
from components.training import loop
from components.training.blueprint import Sizes
from components.training.restorer_training import RestorerTraining
from components.training.seat import Seat
from components.training.step import Batch
from components.training.usage import memory_used

BACKBONES = ("sd21", "qwen")
NUM_BLOCKS = 2  # of Qwen-Image and Wan
NOT_MEASURED = "not measured: no GPU here"


@dataclass(frozen=True)
class Job:
    """What a side needs to train."""

    folder: Path  # with the weights; gets the results
    training: RestorerTraining
    shapes: Shapes
    encoder_side: int
    device: str


class LiveRows:
    """Pictures whose tokens and latents are made in every step."""

    def __init__(self, job: Job, device: torch.device) -> None:
        spec = job.training.spec
        self._rows = Rows(job.shapes, device)
        self._vae = FAMILIES[spec.backbone](job.training.weights.local())
        self._vae.drop_generator()
        self._vae.float().to(device)
        self._encoder = DINOv3(job.folder / "dinov3", input_size=job.encoder_side).to(device)

    def take(self, count: int) -> Batch:
        hq = self._rows.take(count).hq_B3HW
        lq, sr = hq.flip(-1), hq.flip(-2)  # any other pictures
        return Batch(
            hq,
            self._vae.encode(lq),
            self._vae.encode(hq),
            self._encoder(lq),
            self._encoder(sr),
        )


def ours(job: Job) -> dict[str, float]:
    """Train by the product's loop; return images a second and memory."""
    device = torch.device(job.device)
    step, opponent = job.training.start(device)
    points: list[HistoryPoint] = []
    steps = job.training.optimization.steps

    def report(found: list[HistoryPoint], checkpoint: Path | None) -> None:
        del checkpoint
        points.extend(found)

    seat = Seat(0, 1, 1, device, None, report)
    rows = Rows(job.shapes, device)
    loop.train(step, lambda _: rows, job.training.optimization, seat, opponent=opponent)
    measured = points[len(points) // 3 :]
    seconds = sum(1 / point["images_per_s"] for point in measured) / len(measured)
    assert points[-1]["step"] == steps
    return {"images_per_s": 1 / seconds, **_memory(points[-1])}


def plain(job: Job) -> dict[str, float]:
    """Train as everyone writes it first; return images a second and memory."""
    device = torch.device(job.device)
    step, opponent = job.training.start(device)
    assert opponent is not None
    optimization, rows = job.training.optimization, LiveRows(job, device)
    modules = (step, opponent.module)
    optimizers = [
        torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=1e-5)
        for module in modules
    ]
    noise = torch.Generator(device).manual_seed(0)
    warm_up, since = optimization.steps // 3, 0.0
    for index in range(optimization.steps):
        if index == warm_up:
            _wait(device)
            since = time.perf_counter()
        batch = rows.take(optimization.batch_size)
        for optimizer in optimizers:
            optimizer.zero_grad()
        step(batch, noise)["loss"].backward()
        opponent.module(noise)["loss"].backward()
        for optimizer in optimizers:
            optimizer.step()
    _wait(device)
    images = (optimization.steps - warm_up) * optimization.batch_size
    rate = images / (time.perf_counter() - since)
    return {"images_per_s": rate, **_memory(memory_used(device))}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _memory(point: HistoryPoint) -> dict[str, float]:
    return {
        name.removeprefix(SYSTEM): value for name, value in point.items() if name.startswith(SYSTEM)
    }


def _side(rank: int, name: str, job: Job) -> None:
    del rank
    found = {"ours": ours, "plain": plain}[name](job)
    (job.folder / f"{name}.json").write_text(json.dumps(found), encoding="utf-8")


def measure(folder: Path, backbone: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train on both sides, one after the other."""
    described = paper_training.sizes(backbone, num_blocks=NUM_BLOCKS, tiny=arguments.tiny)
    shapes = paper_training.shapes_of(backbone, described)
    precisions = {"ours": "bf16" if arguments.device == "cuda" else "float32", "plain": "float32"}
    found: dict[str, Any] = {}
    for side, precision in precisions.items():
        job = _job(folder, backbone, described, shapes, precision, arguments)
        multiprocessing.spawn(_side, (side, job), nprocs=1)  # type: ignore[attr-defined, no-untyped-call]
        found[side] = {
            "precision": precision,
            **json.loads((folder / f"{side}.json").read_bytes()),
        }
    found["ratio"] = found["ours"]["images_per_s"] / found["plain"]["images_per_s"]
    return found


def _job(
    folder: Path,
    backbone: str,
    described: Sizes,
    shapes: Shapes,
    precision: str,
    arguments: argparse.Namespace,
) -> Job:
    """Describe a training; the first time, make its networks."""
    steps = arguments.steps
    changes = [
        f"precision={precision}",
        "workers=1",
        "optimization.accumulate=1",
        f"optimization.steps={steps}",
        f"optimization.checkpoint_every={steps}",
    ]
    params, _ = paper_training.parameters(backbone, folder, changes, ())
    if not (folder / backbone).exists():
        assert described.encoder is not None
        paper_training.make_weights(folder, backbone, params, described)
        random_weights.write_encoder(folder / "dinov3", described.encoder)
    assert described.encoder_side is not None
    made = paper_training.training(params, backbone, described, shapes)
    return Job(folder, made, shapes, described.encoder_side, arguments.device)


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.paper_step")
    parser.add_argument("backbone", nargs="?", choices=BACKBONES, default="sd21")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--tiny", action="store_true", help="small networks; writes no results")
    arguments = parser.parse_args()
    before = machine.facts()
    rows = machine.kept("paper_step")
    row = rows.setdefault(arguments.backbone, {})
    found: Any = NOT_MEASURED
    if arguments.device == "cpu" or torch.cuda.is_available():
        with tempfile.TemporaryDirectory(prefix="paper-step-") as name:
            os.environ["TORCH_HOME"] = name  # where the perceptual losses' networks are looked for
            found = {"machine": before, **measure(Path(name), arguments.backbone, arguments)}
    print(json.dumps(found, indent=2))
    # What another machine has measured stays.
    if not arguments.tiny and (found != NOT_MEASURED or arguments.device not in row):
        row[arguments.device] = found
        print(machine.save("paper_step", before, rows))


if __name__ == "__main__":
    main()
