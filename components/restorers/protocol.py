"""The seam: what restores aligned faces, seen by whoever compares, caches or serves them.

B batch, H and W of the face; h and w of the gate's patches.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from components.backbones.color_fix import ColorFix


@dataclass(frozen=True)
class Restoration:
    """A batch of restored faces, RGB in [0, 1], and how they came about."""

    restored_B3HW: Tensor
    intermediate_B3HW: Tensor | None = None  # what the condition was taken from
    alpha_BHW: Tensor | None = None  # mean gate of each patch: 1 takes the intermediate


class RestoresFaces(Protocol):
    """A restorer of aligned faces of one size."""

    @property
    def name(self) -> str:
        """Return what it is called in tables."""

    @property
    def size(self) -> int:
        """Return the pixels of a side."""

    @property
    def fingerprint(self) -> str:
        """Return the hash of what it is."""

    @property
    def fidelity(self) -> float | None:
        """Return the fidelity that it has unless another is asked for; None: it has none."""

    @property
    def color_fix(self) -> ColorFix:
        """Return the colour fix that its results get unless another is asked for."""

    @property
    def device(self) -> torch.device:
        """Return where it computes."""

    def restore(
        self,
        lq_B3HW: Tensor,
        face_ids: Sequence[str],
        variants: Sequence[int],
        *,
        fidelity: float | None = None,
    ) -> Restoration:
        """Restore faces, RGB in [0, 1]; ids and variants key whatever is drawn at random."""
