"""The seam: what restores aligned faces, seen by whoever compares, caches or serves them.

B batch, H and W of the face; h and w of the gate's patches.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Restoration:
    """A batch of restored faces, RGB in [0, 1], and how they came about."""

    restored_B3HW: Tensor
    intermediate_B3HW: Tensor | None = None  # what the condition was taken from
    alpha_BHW: Tensor | None = None  # mean gate of each patch: 1 takes the intermediate


class RestoresFaces(Protocol):
    """A restorer of aligned faces of one size."""

    def restore(
        self, lq_B3HW: Tensor, face_ids: Sequence[str], variants: Sequence[int]
    ) -> Restoration:
        """Restore faces, RGB in [0, 1]; ids and variants key whatever is drawn at random."""
