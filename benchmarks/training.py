"""How many images a second a training takes under Ray Train, against the same step in a bare loop.

    python -m benchmarks.training [--backbone sd21] [--condition sdfm] [--steps 60] [--rounds 3]

Uses the tables, weights and models that the demo has left, and `params.yaml`. Both sides have one
process and one thread, the same rows and the same networks, and take turns. The rates are those of
the last two thirds of the steps. `start_and_end_s` is what `fit` takes beside the steps.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from benchmarks import machine
from components.history import HistoryPoint
from components.params import Compute
from components.storage import Storage

WARM_UP = 1 / 3  # of the steps


def bare(config: dict[str, Any]) -> dict[str, float]:
    """Train in this process: what everyone writes first."""
    import torch

    from components.training.batches import FeatureBatches, read_features
    from components.training.sampler import RowStream

    torch.set_num_threads(1)
    restorer = config["restorer"]
    features, pairs = config["features"], config["pairs"]
    step, opponent = restorer.start(torch.device("cpu"))
    batches = FeatureBatches(
        RowStream(
            [shard.rows for shard in features.shards],
            lambda index: read_features(features, pairs, index),
            seed=0,
        ),
        torch.device("cpu"),
    )
    parameters = [parameter for parameter in step.parameters() if parameter.requires_grad]
    optimizers = [torch.optim.AdamW(parameters, lr=1e-4, fused=True)]
    if opponent is not None:
        theirs = [p for p in opponent.module.parameters() if p.requires_grad]
        optimizers.append(torch.optim.AdamW(theirs, lr=1e-4, fused=True))
    noise = torch.Generator().manual_seed(0)
    since, steps = 0.0, restorer.optimization.steps
    for index in range(steps):
        if index == steps * WARM_UP:
            since = time.perf_counter()
        batch = batches.take(restorer.optimization.batch_size)
        for optimizer in optimizers:
            optimizer.zero_grad()
        step(batch, noise)["loss"].backward()
        if opponent is not None:
            opponent.module(noise)["loss"].backward()
        for optimizer in optimizers:
            optimizer.step()
    seconds = time.perf_counter() - since
    return {"images_per_s": steps * (1 - WARM_UP) * restorer.optimization.batch_size / seconds}


def under_ray(config: dict[str, Any]) -> dict[str, float]:
    """Train as the stage does, on one worker, without MLflow."""
    from components import cluster
    from components.ray_training import distributed
    from pipelines import train

    points: list[HistoryPoint] = []
    with cluster.session(Compute(cpus=1)), tempfile.TemporaryDirectory() as folder:
        since = time.time()
        distributed.fit(
            train.work,
            config,
            name="benchmark",
            storage=Storage(folder),
            workers=1,
            compute=Compute(cpus=1),
            listen=lambda news: points.extend(news.points),
        )
        whole = time.time() - since
    optimization = config["restorer"].optimization
    images = optimization.log_every * optimization.batch_size  # a point
    seconds = [images / point["images_per_s"] for point in points]
    return {
        "images_per_s": images * len(seconds[1:]) / sum(seconds[1:]),
        "start_and_end_s": whole - sum(seconds),
    }


def configuration(backbone: str, condition: str, steps: int) -> dict[str, Any]:
    """Take the stage's own configuration, with one checkpoint, at the end, and three points."""
    from pipelines import train

    params = train.TrainParams.load(f"train.{backbone}")
    optimization = params.optimization.model_copy(
        update={
            "steps": steps,
            "warmup_steps": 0,
            "checkpoint_every": steps,
            "log_every": steps // 3,
            "accumulate": 1,
            "gradient_clip": None,
        }
    )
    params = params.model_copy(update={"optimization": optimization, "workers": 1})
    _, restorer = train.plan(params, backbone, condition)  # type: ignore[arg-type]
    return train.worker_config(params, restorer, Compute())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training")
    parser.add_argument("--backbone", default="sd21")
    parser.add_argument("--condition", default="sdfm")
    parser.add_argument("--steps", type=int, default=60, help="a multiple of 3")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", choices=["bare", "under_ray"], help="measure one side, once")
    arguments = parser.parse_args()
    if arguments.steps % 3:
        parser.error("--steps must be a multiple of 3")
    if arguments.side:
        config = configuration(arguments.backbone, arguments.condition, arguments.steps)
        with contextlib.redirect_stdout(sys.stderr):
            measured = {"bare": bare, "under_ray": under_ray}[arguments.side](config)
        print(json.dumps(measured))
        return
    before = machine.facts()
    results: dict[str, Any] = {"bare": [], "under_ray": []}
    for _ in range(arguments.rounds):
        for side, found in results.items():
            found.append(_in_a_process(side))
    rates = {
        side: statistics.median(one["images_per_s"] for one in found)
        for side, found in results.items()
    }
    results["ratio"] = rates["under_ray"] / rates["bare"]
    print(json.dumps(results, indent=2))
    print(machine.save("training", before, results))


def _in_a_process(side: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.training", "--side", side, *sys.argv[1:]]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


if __name__ == "__main__":
    main()
