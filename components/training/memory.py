"""How many bytes a training takes on one GPU: arithmetic of counts and settings (METHOD, 10).

Weights, gradients and the optimizer's numbers are exact. Activations are what autograd keeps in
float32, as counted by `components.training.cost`; in bfloat16 they are an estimate.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal

from components.params import Recomputable
from components.training.frugal_adamw import BLOCK

FLOAT32, BFLOAT16 = 4, 2  # bytes of a number
EIGHT_BITS = 1 + FLOAT32 / BLOCK  # of a moment, with the share of its block's scale
# Of the bytes that float32 keeps for the backward pass: autocast halves most, but normalisations
# keep theirs in float32. Small networks of both families: 0.59 and 0.70 with copies of weights.
BF16_KEPT = 0.65
# CUDA's context, NCCL's buffers, workspaces, and memory between blocks that no tensor fits into.
RESERVED = 3e9


@dataclass(frozen=True)
class Kept:
    """What autograd keeps of one part in float32, in bytes.

    everything: with all activations.
    boundaries: the inputs of its blocks alone, if the blocks are computed again.
    largest_block: what one block then keeps while it is computed again, at most.
    """

    everything: int = 0
    boundaries: int = 0
    largest_block: int = 0

    def __mul__(self, rows: int) -> "Kept":
        return Kept(rows * self.everything, rows * self.boundaries, rows * self.largest_block)


@dataclass(frozen=True)
class Part:
    """One part of a training step.

    turn: of the step, `generator` or `discriminator`; activations of a turn exist together.
    frozen: numbers of frozen networks that are stored as the step computes.
    frozen_float32: frozen numbers that stay float32: vectors, and networks of the losses.
    recomputable: the name by which `compute.STAGE.recompute` has it, if it can be named.
    is_sharded: whether its numbers are split when a training is.
    only_time: of `trained`, what need not be there if vectors of the timestep are trained.
    """

    name: str
    turn: Literal["generator", "discriminator"] = "generator"
    trained: int = 0
    frozen: int = 0
    frozen_float32: int = 0
    kept: Kept = field(default_factory=Kept)
    recomputable: Recomputable | None = None
    is_sharded: bool = False
    num_moments: int = 2  # of its optimizer: AdamW has two, RMSprop one
    only_time: int = 0


@dataclass(frozen=True)
class Settings:
    """How a training keeps its numbers: bytes of each, and where they are.

    weight, gradient, moment: bytes of one number of what trains.
    master: bytes of a second copy of the trained weights that the optimizer changes; 0 for none.
    computing: bytes of a number in matrix products, and of frozen weights.
    shards: GPUs that share one copy of the generator, the discriminator and what belongs to them.
    recompute: parts that compute their activations again.
    offloads: whether weights, gradients and moments of what is sharded are in the host's memory; a
        block or two at work on the GPU count as reserved.
    steps_in_backward: whether a gradient is used and freed as soon as it is there.
    time_vectors: whether vectors of the timestep are trained, and not the matrices behind them.
    """

    weight: int = FLOAT32
    gradient: int = FLOAT32
    moment: float = FLOAT32
    master: int = 0
    computing: int = FLOAT32
    shards: int = 1
    recompute: Collection[Recomputable] = ()
    offloads: bool = False
    steps_in_backward: bool = False
    time_vectors: bool = False


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU, and what lies in the host's memory for it."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    host: float
    reserved: float = RESERVED

    @property
    def total(self) -> float:
        """Bytes on the GPU."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.reserved


def memory(parts: Sequence[Part], settings: Settings) -> Memory:
    """Return what the parts of a training take on one GPU under these settings."""
    weights = gradients = optimizer = 0.0
    host = 0.0
    for part in parts:
        share = settings.shards if part.is_sharded else 1
        trained = part.trained - (part.only_time if settings.time_vectors else 0)
        frozen = settings.computing * part.frozen + FLOAT32 * part.frozen_float32
        weight = (frozen + settings.weight * trained) / share
        gradient = 0.0 if settings.steps_in_backward else settings.gradient * trained / share
        # What has 8 bits is AdamW, whatever the profile's optimizer is.
        num_moments = 2 if settings.moment == EIGHT_BITS else part.num_moments
        moments = (settings.master + num_moments * settings.moment) * trained / share
        if settings.offloads and part.is_sharded:
            host += weight + gradient + moments
            continue
        weights += weight + _copy(settings) * trained / share
        gradients += gradient
        optimizer += moments
    return Memory(weights, gradients, optimizer, _activations(parts, settings), host)


def checkpoint_bytes(parts: Sequence[Part]) -> int:
    """Return the size of one checkpoint: trained weights and moments, in float32."""
    return sum(FLOAT32 * (1 + part.num_moments) * part.trained for part in parts)


def _copy(settings: Settings) -> int:
    """Return the bytes of autocast's copy of a trained weight, which the backward pass needs."""
    return settings.computing if settings.computing < settings.weight else 0


def _activations(parts: Sequence[Part], settings: Settings) -> float:
    """Return the bytes of the turn that keeps more."""
    turns = []
    for turn in ("generator", "discriminator"):
        kept, largest = 0, 0
        for part in parts:
            if part.turn != turn:
                continue
            if part.recomputable in settings.recompute:
                kept += part.kept.boundaries
                largest = max(largest, part.kept.largest_block)
            else:
                kept += part.kept.everything
        turns.append(kept + largest)
    return max(turns) * (BF16_KEPT if settings.computing == BFLOAT16 else 1.0)
