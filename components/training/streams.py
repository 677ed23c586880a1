"""A stream of rows with its own randomness: it behaves the same on any rank.

A training has a fixed number of streams, each with one batch per step. Rank r of W workers has the
streams r, r + W, ...: with as many workers as streams, each has one.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

from components.keyed_random import generator


class Batches(Protocol):
    """An endless source of batches that knows its position."""

    @property
    def position(self) -> int:
        """Return how many rows have been read."""

    def seek(self, position: int) -> None:
        """Continue after `position` rows, as if they had been read."""

    def take(self, count: int) -> Any:
        """Return the next `count` rows as one batch, on the training's device."""


class Stream:
    """One stream: its rows, its noise and its random state of the process (dropout)."""

    def __init__(self, batches: Batches, number: int, *, seed: int, device: torch.device) -> None:
        self.batches, self.number = batches, number
        self._seed, self._device = seed, device
        self.start(0)

    def start(self, position: int) -> None:
        """Continue after `position` rows, with randomness that depends only on that place."""
        self.batches.seek(position)
        self._noise = torch.Generator(self._device).manual_seed(self._drawn("training noise"))
        self._states = {"torch": torch.Generator().manual_seed(self._drawn("torch")).get_state()}
        if self._device.type == "cuda":
            drawn = torch.Generator(self._device).manual_seed(self._drawn("cuda"))
            self._states["cuda"] = drawn.get_state()

    def _drawn(self, purpose: str) -> int:
        key = f"rank {self.number}"
        return int(generator(self._seed, key, self.batches.position, purpose).integers(2**63))

    @contextmanager
    def randomness(self) -> Iterator[torch.Generator]:
        """Return the noise generator; in the block, the process has the stream's random state."""
        torch.set_rng_state(self._states["torch"])
        if "cuda" in self._states:
            torch.cuda.set_rng_state(self._states["cuda"], self._device)
        yield self._noise
        self._states["torch"] = torch.get_rng_state()
        if "cuda" in self._states:
            self._states["cuda"] = torch.cuda.get_rng_state(self._device)

    def random_states(self) -> dict[str, Tensor]:
        """Return all that `resume` needs, apart from the position."""
        return {**self._states, "noise": self._noise.get_state()}

    def resume(self, position: int, states: dict[str, Tensor]) -> None:
        """Continue after `position` rows with the randomness that was saved there."""
        self.batches.seek(position)
        self._noise.set_state(states["noise"])
        self._states = {name: states[name] for name in self._states}
