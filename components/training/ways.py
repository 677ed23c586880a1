"""The ways to run a training, from the most faithful to the most frugal, and what each takes."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import get_args

from components.params import Compute, Recomputable
from components.training.blueprint import Blueprint
from components.training.memory import BFLOAT16, EIGHT_BITS, FLOAT32, Memory, Part, Settings, memory
from components.training.optimization import OptimizerParams
from components.training.training_params import TrainingParams

EVERYTHING: tuple[Recomputable, ...] = get_args(Recomputable)
# Of the peak in bfloat16: 67 of 989 TFLOP/s on an H100, whose float32 products use no TF32 here.
FLOAT32_PEAK = 1 / 15
TIME_VECTORS = "time vectors"


@dataclass(frozen=True)
class Way:
    """One way to run a training.

    overrides: what to add to `hdrface config use PROFILE`.
    passes: backward passes of a GPU in a step, of `batch_size` rows each.
    """

    name: str
    settings: Settings
    num_gpus: int
    passes: int
    overrides: tuple[str, ...] = ()


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
    """List the ways for `num_gpus` GPUs; `section` is the parameters' own, `train.sd21`.

    Each after the first has what those before it have, but for the last ones: a training that
    shards its numbers keeps them in float32, and one with frugal numbers does not shard them.
    """
    now = _now(params, compute)
    profile = _spread(params, Way("as the profile says", now, _workers(params), 0), num_gpus)
    spread = _spread(params, Way("", now, num_gpus, 0), num_gpus)
    half = replace(now, computing=BFLOAT16)
    least = replace(half, recompute=EVERYTHING)
    found = [profile]
    if params.precision != "bf16" or spread.num_gpus != profile.num_gpus:
        found.append(replace(spread, name="bf16", settings=half))
    if set(compute.recompute) != set(EVERYTHING):
        found.append(replace(spread, name="bf16, recompute", settings=least))
    if params.trainable == "full" and not params.time_vectors:
        least = replace(least, time_vectors=True)
        found.append(replace(spread, name=TIME_VECTORS, settings=least))
    if not _is_frugal(now):
        found += _sharded(params, least, num_gpus)
    if params.trainable == "full" and params.parallel == "ddp":
        found += _frugal(spread, least)
    if params.parallel == "fsdp":  # over the GPUs that a way has
        found = [replace(way, settings=replace(way.settings, shards=way.num_gpus)) for way in found]
    return [replace(way, overrides=_overrides(params, compute, section, way)) for way in found]


def _now(params: TrainingParams, compute: Compute) -> Settings:
    """Return the settings of a profile."""
    optimization, workers = params.optimization, _workers(params)
    weight = BFLOAT16 if optimization.weights == "bf16" else FLOAT32
    return Settings(
        weight=weight,
        gradient=weight,
        moment=EIGHT_BITS if optimization.algorithm == "adamw-8bit" else FLOAT32,
        computing=BFLOAT16 if params.precision == "bf16" else FLOAT32,
        shards=workers if params.parallel == "fsdp" else 1,
        recompute=compute.recompute,
        offloads=compute.offload,
        steps_in_backward=optimization.step_in_backward,
        time_vectors=params.time_vectors,
    )


def _is_frugal(settings: Settings) -> bool:
    """Return whether an optimizer is set that no shards can have."""
    return settings.weight != FLOAT32 or settings.moment != FLOAT32 or settings.steps_in_backward


def _sharded(params: TrainingParams, settings: Settings, num_gpus: int) -> Iterator[Way]:
    passes = math.ceil(_passes(params) / num_gpus)
    settings = replace(settings, shards=num_gpus)
    if num_gpus > 1:
        yield Way("sharded", settings, num_gpus, passes)
    name = "sharded, offloaded" if num_gpus > 1 else "offloaded"
    yield Way(name, replace(settings, offloads=True), num_gpus, passes)


def _frugal(spread: Way, settings: Settings) -> Iterator[Way]:
    """List the ways with fewer bytes for each trained number.

    A gradient that is used in the backward pass cannot wait for a step's other passes, nor for
    other GPUs: each pass is a step.
    """
    settings = replace(settings, weight=BFLOAT16, gradient=BFLOAT16)
    yield replace(spread, name="bf16 weights", settings=settings)
    settings = replace(settings, moment=EIGHT_BITS)
    yield replace(spread, name="8-bit moments", settings=settings)
    settings = replace(settings, steps_in_backward=True)
    yield Way("step in backward pass", settings, 1, 1)


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


def choose(estimates: Sequence[Estimate]) -> Estimate | None:
    """Return the fastest way that fits, the more faithful one among equals.

    Ways whose steps have fewer rows come last: they take as many steps, but see fewer faces.
    """
    fitting = [one for one in estimates if one.fits]
    return min(fitting, key=lambda one: (-one.rows, one.hours), default=None)


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


def _overrides(params: TrainingParams, compute: Compute, section: str, way: Way) -> tuple[str, ...]:
    """List what a way changes in a profile."""
    stage, before, after = section.partition(".")[0], _now(params, compute), way.settings
    found = []
    if (way.num_gpus, way.passes) != (_workers(params), params.optimization.accumulate):
        found += [f"workers={way.num_gpus}", f"optimization.accumulate={way.passes}"]
    if after.computing != before.computing:
        found.append("precision=bf16")
    if after.time_vectors != before.time_vectors:
        found.append("time_vectors=true")
    if (after.shards > 1 or after.offloads) and params.parallel != "fsdp":
        found.append("parallel=fsdp")
    for side, optimizer in params.sides().items():
        found += [f"{side}.{change}" for change in _of_optimizer(optimizer, after)]
    if after.steps_in_backward != before.steps_in_backward:
        found.append("optimization.step_in_backward=true")
    changes = [f"{section}.{change}" for change in found]
    if set(after.recompute) != set(before.recompute):
        changes.append(f"compute.{stage}.recompute=[{','.join(after.recompute)}]")
    if after.offloads != before.offloads:
        changes.append(f"compute.{stage}.offload=true")
    return tuple(changes)


def _of_optimizer(optimizer: OptimizerParams, settings: Settings) -> Iterator[str]:
    if settings.moment == EIGHT_BITS and optimizer.algorithm != "adamw-8bit":
        yield "algorithm=adamw-8bit"
    elif settings.weight == BFLOAT16 and optimizer.algorithm == "rmsprop":
        yield "algorithm=adamw"
    if settings.weight == BFLOAT16 and optimizer.weights != "bf16":
        yield "weights=bf16"
    if settings.steps_in_backward and optimizer.gradient_clip is not None:
        yield "gradient_clip=null"
