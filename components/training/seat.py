"""A process's seat in a training: its number among how many, and where its reports go.

Without torch: a driver that only hands out seats must not wait seconds for it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from components.history import HistoryPoint
from components.training.pulse import Pulse

if TYPE_CHECKING:
    import torch

TRAINED = "trained"  # the folder in the last checkpoint that becomes the result
PICTURE = "validation-{}.png"  # of the faces of a validation, in the checkpoint of its step


@dataclass(frozen=True)
class Seat:
    """What a process must know of its place in the training.

    `report` is called by every rank at the same steps: with each new point of the history after
    `log_every` steps (after a resume, first with all points so far), and with a checkpoint's folder
    after `checkpoint_every` steps and the last. The folder is gone when `report` has returned.
    """

    # Number of this process. More than one, or a sharded training, need an initialised
    # `torch.distributed`.
    rank: int
    world_size: int  # number of processes
    num_streams: int  # of rows, at least `world_size`: see `components.training.streams`
    device: "torch.device"
    resume_from: Path | None  # the folder of a checkpoint, with the parts of all ranks
    report: Callable[[list[HistoryPoint], Path | None], None]
    pulse: Pulse = field(default_factory=Pulse)  # how far it has come; nobody has to look
