"""Which faces train and which test: by a `split.csv` beside the pictures, or a hash of the name."""

from __future__ import annotations

import csv
import hashlib
import io
import math
from typing import Literal

FILE = "split.csv"
Split = Literal["train", "test"]
_MEANING: dict[str, Split] = {"train": "train", "test": "test", "val": "test"}


class SplitError(ValueError):
    """A `split.csv` cannot be used; the message names the row."""


def parse(text: str) -> dict[str, Split]:
    """Read a `split.csv` (columns `file`, `split`; others are ignored). `val` counts as test.

    Raises: SplitError on a missing column, an unknown split, or a file in two splits.
    """
    reader = csv.DictReader(io.StringIO(text))
    if missing := {"file", "split"} - set(reader.fieldnames or ()):
        raise SplitError(f"{FILE} has no column {', '.join(sorted(missing))}")
    splits: dict[str, Split] = {}
    for row in reader:
        split = _MEANING.get(row["split"])
        if split is None:
            known = ", ".join(_MEANING)
            raise SplitError(
                f"{FILE}, line {reader.line_num}: split {row['split']!r} of {row['file']} "
                f"is none of {known}"
            )
        if splits.setdefault(row["file"], split) != split:
            raise SplitError(f"{FILE}, line {reader.line_num}: {row['file']} is in two splits")
    return splits


def by_name(name: str, test_percent: float) -> Split:
    """Return the split that a hash of the file name gives: adding a picture moves no other one."""
    digest = hashlib.sha256(name.encode()).digest()
    return "test" if int.from_bytes(digest[:8]) < test_percent / 100 * 2**64 else "train"


def spread(total: int, wanted: int) -> set[int]:
    """Return `wanted` positions of `total` faces, evenly spread, so never chosen by result."""
    wanted = min(wanted, total)
    return {math.floor((i + 0.5) * total / wanted) for i in range(wanted)}
