"""The ways to keep a training's numbers, from the most faithful to the most frugal, and their time.

Those that cannot be set yet say what they lack: they show what a training would need.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from components.params import Compute, Recomputable
from components.training.blueprint import Blueprint
from components.training.memory import BFLOAT16, FLOAT32, INT8, Memory, Part, Settings, memory
from components.training.restorer_training import TrainingParams

EVERYTHING: tuple[Recomputable, ...] = get_args(Recomputable)
# Of the peak in bfloat16: 67 of 989 TFLOP/s on an H100, whose float32 products use no TF32 here.
FLOAT32_PEAK = 1 / 15
TIME_VECTORS = "time vectors"


@dataclass(frozen=True)
class Way:
    """One way to run a training.

    overrides: what to add to `hdrface config use PROFILE`, of a way that lacks something only
        `time_vectors`; lacks: what cannot be set yet.
    passes: backward passes of a GPU in a step, of `batch_size` rows each.
    """

    name: str
    settings: Settings
    num_gpus: int
    passes: int
    overrides: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Estimate:
    """What one way takes."""

    way: Way
    memory: Memory  # of one GPU
    rows: int  # of a step
    step_flop: float  # of a step, on all GPUs
    hours: float
    fits: bool


def ways(params: TrainingParams, compute: Compute, section: str, num_gpus: int) -> list[Way]:
    """List the ways for `num_gpus` GPUs; `section` is the parameters' own, `train.sd21`."""
    stage = section.partition(".")[0]
    now = Settings(
        computing=BFLOAT16 if params.precision == "bf16" else Settings.computing,
        recompute=compute.recompute,
    )
    bf16, again = f"{section}.precision=bf16", f"compute.{stage}.recompute=[{','.join(EVERYTHING)}]"
    profile = _spread(params, Way("as the profile says", now, _workers(params), 0), num_gpus)
    found = [replace(profile, overrides=_moved(params, section, profile))]
    spread = _spread(params, Way("", now, num_gpus, 0), num_gpus)
    moved = _moved(params, section, spread)
    if params.precision != "bf16" or moved:
        half = replace(now, computing=BFLOAT16)
        given = (*moved, *(() if params.precision == "bf16" else (bf16,)))
        found.append(replace(spread, name="bf16", settings=half, overrides=given))
    if set(compute.recompute) != set(EVERYTHING):
        half = replace(now, computing=BFLOAT16, recompute=EVERYTHING)
        given = (*moved, *(() if params.precision == "bf16" else (bf16,)), again)
        name = "bf16, recompute"
        found.append(replace(spread, name=name, settings=half, overrides=given))
    if _may_train_vectors(params):
        found.append(_with_time_vectors(found[-1], section))
    return [*found, *_missing(params, section, num_gpus)]


def _with_time_vectors(way: Way, section: str) -> Way:
    """Return the way with fewer trained numbers; the operations that this saves are few."""
    return replace(
        way,
        name=f"{way.name}, {TIME_VECTORS}",
        settings=replace(way.settings, time_vectors=True),
        overrides=(*way.overrides, _time_vectors(section)),
    )


def estimate(
    plan: Blueprint, params: TrainingParams, way: Way, *, memory_bytes: float, flops: float
) -> Estimate:
    """Estimate one way on GPUs of `memory_bytes`, which do `flops` bfloat16 operations a second."""
    batch = params.optimization.batch_size
    parts = [replace(counted.part, kept=counted.part.kept * batch) for counted in plan.parts]
    needed = memory(parts, way.settings)
    rows = batch * way.passes * way.num_gpus
    again = sum(
        counted.cost.forward
        for counted in plan.parts
        if counted.part.recomputable in way.settings.recompute and counted.cost.step
    )
    step_flop = rows * (plan.step + again)
    speed = flops * (1 if way.settings.computing == BFLOAT16 else FLOAT32_PEAK)
    seconds = params.optimization.steps * step_flop / (way.num_gpus * speed)
    return Estimate(way, needed, rows, step_flop, seconds / 3600, needed.total <= memory_bytes)


def choose(estimates: Sequence[Estimate]) -> tuple[Estimate | None, Estimate | None]:
    """Return the fastest way that fits and can be set, and the first that fits at all."""
    fitting = [one for one in estimates if one.fits]
    settable = [one for one in fitting if not one.way.lacks]
    return min(settable, key=lambda one: one.hours, default=None), next(iter(fitting), None)


def parts_of(plan: Blueprint) -> list[Part]:
    """Return the parts without their costs."""
    return [counted.part for counted in plan.parts]


def _workers(params: TrainingParams) -> int:
    return params.workers if isinstance(params.workers, int) else params.workers[1]


def _passes(params: TrainingParams) -> int:
    """Return the backward passes of a step on all workers together."""
    return params.optimization.accumulate * _workers(params)


def _spread(params: TrainingParams, way: Way, num_gpus: int) -> Way:
    """Give each GPU as many passes; take no more GPUs than can share a step's passes evenly."""
    passes = _passes(params)
    most = min(way.num_gpus, num_gpus, passes)
    used = max(number for number in range(1, most + 1) if passes % number == 0)
    return replace(way, num_gpus=used, passes=passes // used)


def _moved(params: TrainingParams, section: str, way: Way) -> tuple[str, ...]:
    if way.num_gpus == _workers(params):
        return ()
    return (
        f"{section}.workers={way.num_gpus}",
        f"{section}.optimization.accumulate={way.passes}",
    )


def _missing(params: TrainingParams, section: str, num_gpus: int) -> Iterator[Way]:
    """List what cannot be set yet; each has all that those before it have.

    Vectors of the timestep can be set, so their way has an override and lacks what came before.
    With 8-bit moments rounding is stochastic where no float32 master is. A gradient that is used in
    the backward pass cannot wait for a step's other passes: each pass is then a step.
    """
    passes = math.ceil(_passes(params) / num_gpus)
    settings = Settings(computing=BFLOAT16, shards=num_gpus, recompute=EVERYTHING)
    lacks: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    changes: list[tuple[str, dict[str, Any]]] = [
        (
            "bf16 weights, fp32 master",
            {"weight": BFLOAT16, "gradient": BFLOAT16, "master": FLOAT32},
        ),
        ("8-bit moments", {"moment": INT8}),
        ("stochastic rounding", {"master": 0}),
        ("step in backward pass", {"steps_in_backward": True}),
        ("moments on the host", {"offloads": True}),
    ]
    if num_gpus > 1:
        changes.insert(0, ("sharded", {}))
    if _may_train_vectors(params):
        changes.insert(1, (TIME_VECTORS, {"time_vectors": True}))
    for name, change in changes:
        settings = replace(settings, **change)
        if name == TIME_VECTORS:
            overrides = (_time_vectors(section),)
        else:
            lacks = (*lacks, name)
        yield Way(name, settings, num_gpus, passes, overrides, lacks)


def _may_train_vectors(params: TrainingParams) -> bool:
    return params.trainable == "full" and not params.time_vectors


def _time_vectors(section: str) -> str:
    return f"{section}.time_vectors=true"
