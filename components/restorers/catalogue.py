"""Restorers of other projects by name: `spandrel:FILE` or `onnx:FILE`."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from components.restorers.protocol import RestoresFaces

KINDS = ("spandrel", "onnx")


def is_of_others(name: str) -> bool:
    """Return whether a name is one of these."""
    return name.partition(":")[0] in KINDS


def file_of(name: str) -> Path:
    """Return the checkpoint that a name leads to."""
    return Path(name.partition(":")[2])


def open_of_others(name: str, *, device: "torch.device") -> "RestoresFaces":
    """Load a restorer. Raises: FileNotFoundError; ValueError if the file holds something else."""
    from components.restorers.by_onnx import OnnxRestorer
    from components.restorers.by_spandrel import SpandrelRestorer

    kind = SpandrelRestorer if name.startswith("spandrel:") else OnnxRestorer
    return kind(file_of(name), device=device)
