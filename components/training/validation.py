"""Watch a training: fixed test faces are restored and scored while it runs.

It draws no random number that the training draws, so it changes no weight.

B batch, H and W of the image.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NamedTuple, Self

import numpy as np
import torch
import torch.distributed as dist
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from components import images
from components.history import BEST_STEP, HistoryPoint
from components.metrics.catalogue import CATALOGUE, Metric, open_metrics
from components.params import Params, one_of
from components.training.best import BestModel
from components.training.seat import PICTURE, Seat
from components.training.step import TrainingStep
from components.training.validation_faces import ValidationFace
from components.weights.precision import computing

MetricName = Annotated[
    str, one_of([name for name, entry in CATALOGUE.items() if entry.opens and not entry.is_set])
]
_CELL = 256  # pixels of a face in the picture, at most


class ValidationParams(Params):
    """How a training is watched, and which of its models is the result."""

    every: PositiveInt  # steps, a multiple of checkpoint_every; the last step is always validated
    faces: Annotated[int, Field(ge=1, le=32)]  # of the test split
    metrics: Annotated[tuple[MetricName, ...], Field(min_length=1)]
    # The metric whose best step gives the result; None: the last step does.
    keep_best: MetricName | None = None

    @model_validator(mode="after")
    def _the_best_is_measured(self) -> Self:
        if self.keep_best is not None and self.keep_best not in self.metrics:
            raise ValueError(
                f"keep_best = {self.keep_best} is not measured: add it to metrics, or set "
                "keep_best to null"
            )
        return self


class Validation:
    """The fixed faces of one training, and what is known of how they are restored.

    Every rank restores all of them: the others would wait for rank 0 anyway, and where weights are
    shared out over ranks, a forward pass needs all ranks. Rank 0 scores and draws.
    """

    def __init__(
        self,
        params: ValidationParams,
        step: TrainingStep,
        faces: Sequence[ValidationFace],
        seat: Seat,
        best: BestModel | None,
    ) -> None:
        self.best = best
        self._every, self._step, self._device = params.every, step, seat.device
        self._pulse, self._world_size = seat.pulse, seat.world_size
        self._faces = [_Known(face, self._encode(face)) for face in faces]
        self._metrics = _open(params.metrics, seat.device) if seat.rank == 0 else {}
        self._picture: tuple[int, bytes] | None = None  # of this step, until a checkpoint has it

    def is_due(self, step: int, *, is_last: bool) -> bool:
        return is_last or step % self._every == 0

    def measure(self, step: int, history: Sequence[HistoryPoint]) -> HistoryPoint:
        """Restore the faces; return the mean scores, on rank 0, and which step is the best.

        `history` has the points before this step.
        """
        with _at_rest(self._step):
            restored = [self._restore(known) for known in self._faces]
        point: HistoryPoint = {"step": step}
        if self._metrics:  # rank 0
            strip = _strip([known.face for known in self._faces], restored)
            self._picture = (step, images.encode_png(strip))
            point |= self._scores(restored)
        if self.best is not None:
            best_step = self.best.step([*history, point]) if self._metrics else 0
            point[BEST_STEP] = self._on_all(best_step)
        return point

    def _scores(self, restored: Sequence[Tensor]) -> HistoryPoint:
        point: HistoryPoint = {}
        for name, metric in self._metrics.items():
            scores = [
                metric(restored_B3HW, known.face.hq_B3HW)
                for known, restored_B3HW in zip(self._faces, restored, strict=True)
            ]
            point[f"validation_{name}"] = float(np.mean(scores))
        return point

    def _on_all(self, step: float) -> float:
        """Return rank 0's answer: all ranks gather the best model if it is sharded."""
        if self._world_size == 1:
            return step
        agreed = torch.tensor(int(step), device=self._device)
        dist.broadcast(agreed, src=0)
        return int(agreed)

    def write_picture(self, folder: Path) -> None:
        """Write the picture of this step, if there is one, into a checkpoint."""
        if self._picture is not None:
            step, png = self._picture
            (folder / PICTURE.format(step)).write_bytes(png)
            self._picture = None

    def _encode(self, face: ValidationFace) -> Tensor:
        with computing(self._step.precision, self._device):
            return self._step.restorer.encode(
                face.lq_B3HW.to(self._device), [face.face_id], [face.variant]
            )

    def _restore(self, known: "_Known") -> Tensor:
        """Restore one face, alone: it takes less memory than a step, however many faces there are.

        Shape: (1, 3, H, W) in [0, 1] on the CPU.
        """
        face = known.face
        self._pulse.beat(f"restoring face {face.face_id} for the validation")
        tokens = None
        if face.tokens is not None:
            sr_BNC, lq_BNC = (part.to(self._device) for part in face.tokens)
            tokens = (sr_BNC, lq_BNC)
        with computing(self._step.precision, self._device):
            restored_B3HW, _ = self._step.restorer.finish(
                known.latent_BCHW, tokens, [face.face_id], [face.variant]
            )
        return restored_B3HW.cpu()


class _Known(NamedTuple):
    face: ValidationFace
    latent_BCHW: Tensor  # of the degraded face; its encoder is frozen


@contextmanager
def watching(
    params: ValidationParams | None,
    step: TrainingStep,
    faces: Sequence[ValidationFace],
    seat: Seat,
) -> Iterator[Validation | None]:
    """Make the validation of a training for the block, if it has one.

    Raises: ValueError naming a metric whose files are missing.
    """
    if params is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="best-") as folder:
        best = None
        if params.keep_best is not None:
            kept = seat.resume_from if seat.rank == 0 else None  # once, however many ranks
            best = BestModel(params.keep_best, Path(folder), kept)
        yield Validation(params, step, faces, seat, best)


def _open(names: Sequence[str], device: torch.device) -> dict[str, Metric]:
    metrics, unavailable = open_metrics(names, identity_network=None, device=device)
    if unavailable:
        told = "; ".join(f"{name}: {reason}" for name, reason in unavailable.items())
        raise ValueError(
            f"validation.metrics cannot be measured ({told}): put the files there, or remove the "
            "metric"
        )
    return metrics


@contextmanager
def _at_rest(module: nn.Module) -> Iterator[None]:
    """Switch dropout and the like off for the block, and every module back to how it was."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def _strip(faces: Sequence[ValidationFace], restored: Sequence[Tensor]) -> images.Image:
    """Draw one row per face: degraded, intermediate if there is one, restored, true."""
    rows = []
    for face, restored_B3HW in zip(faces, restored, strict=True):
        cells = [face.lq_B3HW, face.intermediate_B3HW, restored_B3HW, face.hq_B3HW]
        pictures = images.from_tensor(torch.cat([cell for cell in cells if cell is not None]))
        small = [images.resize(one, min(_CELL, one.shape[0])) for one in pictures]
        rows.append(np.concatenate(small, axis=1))
    return np.concatenate(rows)
