"""The training loop: plain PyTorch, in one process or in several that share their gradients.

It knows no cluster. Rows come in streams (`components.training.streams`): their number decides the
batch and the rows of a step, and how many processes serve them does not. Points of the history and
checkpoints leave through the seat's callable `report`: Ray Train's in a stage, a list's `append` in
a test.
"""

import logging
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from components.history import HistoryPoint
from components.training import checkpoint
from components.training.adversary import Referee
from components.training.checkpoint import Moving, Progress
from components.training.finite import (
    NonFiniteLossError,
    Watch,
    watch_of,
    what_is_not_finite,
)
from components.training.optimization import (
    OptimizationParams,
    OptimizerParams,
    check_step_in_backward,
)
from components.training.parallel import is_sharded
from components.training.seat import Seat
from components.training.side import Side
from components.training.streams import Batches, Stream
from components.training.usage import memory_used
from components.training.validation import Validation

log = logging.getLogger(__name__)

OPPONENT = "discriminator"  # its loss in the history


class Opponent(NamedTuple):
    """What plays against the trained step: `module(noise_generator)` gives its losses, like a step.

    It is called after each of the step's backward passes, so it may look at what the step made.
    """

    module: nn.Module
    optimizer: OptimizerParams


def train(
    step: nn.Module,
    batches: Callable[[int], Batches],
    optimization: OptimizationParams,
    seat: Seat,
    *,
    opponent: Opponent | None = None,
    export: Callable[[Path], None] | None = None,
    validation: Validation | None = None,
) -> None:
    """Train what is not frozen in `step` for `optimization.steps` steps, and leave it in `step`.

    Args:
        step: `step(batch, noise_generator)` gives {"loss": scalar, and its terms by name}; it is on
            the seat's device.
        batches: gives the rows of a stream by its number, from 0; each stream gives `batch_size`
            rows to every backward pass of a step.
        optimization: the optimizer's side of the training.
        seat: this process's place, and where its points and checkpoints go.
        opponent: a discriminator, which takes turns with `step`.
        export: adds files to the last checkpoint; called on every rank, since all of them may have
            to gather what is sharded.
        validation: restores fixed faces now and then; it may choose another step to export.

    Raises: NonFiniteLossError naming step and term, and the network if `step` has a `Watch`,
        before a checkpoint holds the damage.
    """
    rank, world_size, num_streams = seat.rank, seat.world_size, seat.num_streams
    streams = _own_streams(batches, optimization, seat)
    sides = _sides(Opponent(step, optimization), opponent, optimization, num_streams)
    moving = _moving(sides)
    progress = _resumed(moving, streams, seat)
    seat.pulse.beat("meeting the other workers")
    for side in sides:
        side.share(seat)
    watch = watch_of(step)
    window = _Window(optimization.batch_size * optimization.accumulate * num_streams, watch)
    referee = Referee()

    while progress.step < optimization.steps:
        rate = optimization.learning_rate_at(progress.step)
        watch.step = progress.step + 1
        window.add(_descend(sides, streams, optimization, progress.step, seat))
        progress.step += 1
        is_last = progress.step == optimization.steps
        points: list[HistoryPoint] = []
        if is_last or progress.step % optimization.log_every == 0:
            points = [{**window.close(progress.step, world_size), "learning_rate": rate}]
            points[0] |= memory_used(seat.device)
            points[0] |= _validated(validation, progress, is_last=is_last)
            progress.history += points
            if rank == 0 and (told := referee.look(points[0])):
                log.warning("%s", told)
        if is_last or progress.step % optimization.checkpoint_every == 0:
            seat.pulse.beat("writing a checkpoint")
            with _saved(moving, progress, streams, num_streams, rank) as folder:
                seat.pulse.beat("adding the model to a checkpoint")
                _add_model(folder, points[-1], export, validation, is_last=is_last)
                seat.pulse.beat("storing a checkpoint")
                seat.report(points, folder)
            window.restart_clock()
        elif points:
            seat.report(points, None)


def _own_streams(
    batches: Callable[[int], Batches], optimization: OptimizationParams, seat: Seat
) -> list[Stream]:
    """Return the streams that this rank serves."""
    return [
        Stream(batches(number), number, seed=optimization.seed, device=seat.device)
        for number in range(seat.rank, seat.num_streams, seat.world_size)
    ]


def _resumed(moving: Moving, streams: Sequence[Stream], seat: Seat) -> Progress:
    """Read the checkpoint to resume from, and report its history; begin if there is none."""
    if seat.resume_from is None:
        return Progress()
    seat.pulse.beat("reading the checkpoint")
    progress = checkpoint.load(seat.resume_from, moving, streams, num_streams=seat.num_streams)
    seat.report(list(progress.history), None)
    return progress


def _sides(
    ours: Opponent, theirs: Opponent | None, optimization: OptimizationParams, num_streams: int
) -> list[Side]:
    both = [ours] if theirs is None else [ours, theirs]
    in_backward = optimization.step_in_backward
    if in_backward:
        check_step_in_backward(num_streams, *(side.optimizer for side in both))
    return [Side(*side, seed=optimization.seed, steps_in_backward=in_backward) for side in both]


@contextmanager
def _saved(
    moving: Moving, progress: Progress, streams: Sequence[Stream], num_streams: int, rank: int
) -> Iterator[Path]:
    """Write this rank's part of a checkpoint into a folder that is there during the block."""
    with tempfile.TemporaryDirectory(prefix="checkpoint-") as name:
        folder, is_first = Path(name), rank == 0
        checkpoint.save(
            folder, moving, progress, streams, num_streams=num_streams, is_first_rank=is_first
        )
        yield folder


def _validated(validation: Validation | None, progress: Progress, *, is_last: bool) -> HistoryPoint:
    if validation is None or not validation.is_due(progress.step, is_last=is_last):
        return {}
    return validation.measure(progress.step, progress.history)


def _add_model(
    folder: Path,
    point: HistoryPoint,
    export: Callable[[Path], None] | None,
    validation: Validation | None,
    *,
    is_last: bool,
) -> None:
    """Write what a checkpoint has beside the state of the training: a picture, and a model."""
    best = None
    if validation is not None:
        validation.write_picture(folder)
        best = validation.best
    if export is None:
        return
    if best is not None:
        best.write(folder, export, point, is_last=is_last)
    elif is_last:
        export(folder)


def _moving(sides: Sequence[Side]) -> Moving:
    ours, *theirs = (Moving(side.module, side.optimizer) for side in sides)
    return ours._replace(opponent=theirs[0]) if theirs else ours


def _descend(
    sides: Sequence[Side],
    streams: Sequence[Stream],
    optimization: OptimizationParams,
    step: int,
    seat: Seat,
) -> dict[str, Tensor]:
    """Take one step on each side; return this rank's part of the mean losses, by name."""
    # Ranks average their gradients, so one with more streams than others counts for more.
    passes = optimization.accumulate * seat.num_streams / seat.world_size
    sums: dict[str, Tensor] = {}
    for side in sides:
        side.begin(optimization.learning_rate_at(step, of=side.params))
    turns = [stream for stream in streams for _ in range(optimization.accumulate)]
    num_idle, in_shards = _num_idle_passes(len(turns), optimization, seat), _in_shards(sides)
    if not in_shards:  # all ranks meet in the last pass that each makes
        seat.pulse.beat(f"beginning step {step + 1}", by=1 + 2 * num_idle)
    for turn, stream in enumerate(turns, start=1):
        how: Any = {"passes": passes, "is_last": turn == len(turns)}
        seat.pulse.beat(f"reading rows for step {step + 1}")
        batch = stream.batches.take(optimization.batch_size)
        seat.pulse.beat(f"computing step {step + 1}")
        with stream.randomness() as noise:
            losses = sides[0].turn(batch, noise, **how)
            for side in sides[1:]:
                theirs = side.turn(noise, **how)
                losses |= {OPPONENT if name == "loss" else name: theirs[name] for name in theirs}
        for name, value in losses.items():
            sums[name] = sums[name] + value if name in sums else value
    for _ in range(num_idle if in_shards else 0):
        seat.pulse.beat(f"computing step {step + 1}", by=2)
        _pass_idly(sides, batch, seat)
    for side, name in zip(sides, ("gradient_norm", f"{OPPONENT}_gradient_norm"), strict=False):
        sums[name] = side.descend(seat.device)
    return sums


def _in_shards(sides: Sequence[Side]) -> bool:
    return any(is_sharded(side.module) for side in sides)


def _num_idle_passes(made: int, optimization: OptimizationParams, seat: Seat) -> int:
    """Return how many passes fewer than the others a rank with fewer streams makes.

    In every pass of a sharded training, all ranks gather each other's shards: it makes them all.
    """
    return math.ceil(seat.num_streams / seat.world_size) * optimization.accumulate - made


def _pass_idly(sides: Sequence[Side], batch: Any, seat: Seat) -> None:
    """Make a pass that adds nothing to any gradient, and takes neither rows nor randomness."""
    noise = torch.Generator(seat.device).manual_seed(0)
    sides[0].turn(batch, noise, passes=math.inf, is_last=False)
    for side in sides[1:]:
        side.turn(noise, passes=math.inf, is_last=False)


class _Window:
    """The losses since the last point of the history; they stay on their device until the next."""

    def __init__(self, images_per_step: int, watch: Watch) -> None:
        self._images_per_step, self._watch = images_per_step, watch
        self._steps: list[dict[str, Tensor]] = []
        self.restart_clock()

    def restart_clock(self) -> None:
        """Start the clock again: the time of a checkpoint is not part of the rate."""
        self._since = time.perf_counter()

    def add(self, losses: dict[str, Tensor]) -> None:
        self._steps.append(losses)

    def close(self, step: int, world_size: int) -> HistoryPoint:
        """Return the means since the last point, over steps and ranks."""
        names = list(self._steps[0])
        values_ST = torch.stack(
            [torch.stack([losses[name].float() for name in names]) for losses in self._steps]
        )
        means_T = values_ST.double().mean(dim=0)
        if world_size > 1:
            dist.all_reduce(means_T)
            means_T /= world_size
        means = dict(zip(names, means_T.tolist(), strict=True))
        if not all(map(math.isfinite, means.values())):
            spoiled = self._watch.found(world_size, means_T.device)
            raise NonFiniteLossError(what_is_not_finite(values_ST, names, step, spoiled))
        seconds = time.perf_counter() - self._since
        rate = len(self._steps) * self._images_per_step / seconds
        self._steps = []
        self.restart_clock()
        return {"step": step, **means, "images_per_s": rate, "workers": world_size}
