"""The faces of a validation: some of the test split, with what the frozen networks see in them.

B batch, N tokens, C token width.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import torch
import torch.distributed as dist
from torch import Tensor

from components import images
from components.encoders.dinov3 import DINOv3
from components.faces.split import spread
from components.restorers.hdrface import look_twice
from components.restorers.protocol import RestoresFaces
from components.training.seat import Seat

_COLUMNS = ("face_id", "variant", "split", "hq_png", "lq_png")
ReadShard = Callable[[int, Sequence[str]], pa.Table]


@dataclass(frozen=True)
class ValidationFace:
    """One face, as tensors with B = 1 on the CPU; images are RGB in [0, 1]."""

    face_id: str
    variant: int
    hq_B3HW: Tensor
    lq_B3HW: Tensor
    intermediate_B3HW: Tensor | None = None
    tokens: tuple[Tensor, Tensor] | None = None  # (SR, LQ), each (B, N, C)


def read_faces(read_shard: ReadShard, num_shards: int, count: int) -> list[ValidationFace]:
    """Read `count` faces of the test split of a table of pairs, evenly spread, or all if fewer.

    Raises: ValueError if no pair is in the test split.
    """
    tests = [
        (shard, row)
        for shard in range(num_shards)
        for row, split in enumerate(read_shard(shard, ["split"])["split"].to_pylist())
        if split == "test"
    ]
    if not tests:
        raise ValueError(
            "a validation needs faces, and the pairs have no row in the split 'test': raise "
            "faces.test_percent, or set the training's validation to null"
        )
    return [_read_face(read_shard, *tests[place]) for place in sorted(spread(len(tests), count))]


def _read_face(read_shard: ReadShard, shard: int, row: int) -> ValidationFace:
    (values,) = read_shard(shard, _COLUMNS).slice(row, 1).to_pylist()
    return ValidationFace(
        values["face_id"],
        values["variant"],
        hq_B3HW=_image(values["hq_png"]),
        lq_B3HW=_image(values["lq_png"]),
    )


def _image(png: bytes) -> Tensor:
    return images.to_tensor([images.decode_png(png)])


def seen_by(
    faces: Sequence[ValidationFace],
    intermediate: RestoresFaces,
    encoder: DINOv3,
    device: torch.device,
) -> Iterator[ValidationFace]:
    """Find what a condition of tokens is made of: the same as the features table would hold."""
    for face in faces:
        lq_B3HW = face.lq_B3HW.to(device)
        first_B3HW = intermediate.restore(lq_B3HW, [face.face_id], [face.variant]).restored_B3HW
        tokens = look_twice(lq_B3HW, first_B3HW, encoder)
        sr_BNC, lq_BNC = (part.cpu() for part in tokens)
        yield replace(face, intermediate_B3HW=first_B3HW.cpu(), tokens=(sr_BNC, lq_BNC))


def on_every_rank(seat: Seat, make: Callable[[], list[ValidationFace]]) -> list[ValidationFace]:
    """Make faces on rank 0 and hand them to the others: their networks are loaded only once."""
    if seat.world_size == 1:
        return make()
    box: list[Any] = [make() if seat.rank == 0 else None]
    dist.broadcast_object_list(box, src=0, device=seat.device)
    faces: list[ValidationFace] = box[0]
    return faces
