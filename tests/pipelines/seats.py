"""The only seat of a training in this process, and what is reported from it."""

from dataclasses import dataclass, field
from pathlib import Path
from shutil import copytree

import torch

from components.training.seat import Seat


@dataclass
class Reports:
    """The points of a history, and a copy of each checkpoint: `folder/STEP`."""

    folder: Path
    points: list[dict[str, float]] = field(default_factory=list)

    def report(self, points: list[dict[str, float]], checkpoint: Path | None) -> None:
        self.points += points
        if checkpoint is not None:
            copytree(checkpoint, self.folder / f"{self.points[-1]['step']:.0f}")

    def seat(self, resume_from: Path | None = None) -> Seat:
        return Seat(0, 1, 1, torch.device("cpu"), resume_from, self.report)
