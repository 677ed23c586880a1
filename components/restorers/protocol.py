"""The seam: what restores aligned faces, seen by whoever compares, caches or serves them.

B batch, H and W of the face; h and w of the gate's patches.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from components.backbones.color_fix import ColorFix
from components.weights.precision import InferencePrecision


@dataclass(frozen=True)
class Restoration:
    """A batch of restored faces, RGB in [0, 1], and how they came about."""

    restored_B3HW: Tensor
    intermediate_B3HW: Tensor | None = None  # what the condition was taken from
    alpha_BHW: Tensor | None = None  # mean gate of each patch: 1 takes the intermediate


# Where first restorations come from: none is used, they are made unless given, or must be given.
Intermediates = Literal["unused", "made", "given"]


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
    def precision(self) -> InferencePrecision:
        """Return in which numbers it computes."""

    @property
    def is_preview(self) -> bool:
        """Return whether its results are rough ones, by a tiny decoder, for a quick look."""

    @property
    def intermediates(self) -> Intermediates:
        """Return where the first restorations come from, which its results build on."""

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
        intermediate_B3HW: Tensor | None = None,
    ) -> Restoration:
        """Restore faces, RGB in [0, 1], to such rounded to 8 bits.

        Ids and variants key whatever is drawn at random. `intermediate_B3HW` are first restorations
        that another program made.

        Raises: ValueError if first restorations are given and not used, or needed and not given.
        """


def where_from(first: RestoresFaces | None) -> Intermediates:
    """Return where a restorer's first restorations come from, if it uses some."""
    return "given" if first is None or first.intermediates == "given" else "made"


def check_first(first: RestoresFaces, name: str, size: int, *, uses_one: bool) -> None:
    """Raise ValueError if `first` cannot come before the restorer `name` of faces of `size`."""
    if not uses_one:
        raise ValueError(f"{name} uses no first restorations: leave {first.name} out")
    if first.size != size:
        raise ValueError(
            f"{first.name} restores faces of {first.size} pixels, {name} faces of {size}: name a "
            "first restorer of that size"
        )


def refuse_intermediates(name: str, intermediate_B3HW: Tensor | None) -> None:
    """Raise ValueError if first restorations are given to a restorer that uses none."""
    if intermediate_B3HW is not None:
        raise ValueError(
            f"{name} uses no first restorations: leave them out, or name a model that was trained "
            "under the condition 'sdfm' or 'dino'"
        )
