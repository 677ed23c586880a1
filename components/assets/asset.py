"""One thing that a run needs: whether it is here, how large it is, and how to get it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

# made: a stage of the line makes it. not seen: it lies where this check does not look.
State = Literal["here", "missing", "made", "not seen"]


@dataclass(frozen=True)
class Asset:
    """One row of the listing."""

    what: str  # who needs it: `loss lpips`
    which: str  # a hub id, a path, an amount
    state: State
    size: str = ""
    licence: str = ""
    remedy: str = ""  # the command that gets it, or what to do


def at(values: Any, key: str) -> Any:
    """Return the value of a dotted key (`faces.source`); None if there is none."""
    for name in key.split("."):
        values = values.get(name) if isinstance(values, Mapping) else None
    return values


def shown(num_bytes: float) -> str:
    """Return a size in decimal units: `528 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:,.1f} TB"
