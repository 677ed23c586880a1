"""From rows of a table to the batches of a training step.

B batch, N tokens, C token width or latent channels, H and W: of the image, or of the latent.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from components import images
from components.keyed_random import generator
from components.training.sampler import Row, RowStream, stacked
from components.training.step import Batch

FEATURE_COLUMNS = ("hq_png", "lq_tokens", "sr_tokens", "lq_latent", "hq_latent")
PAIR_COLUMNS = ("hq_png", "lq_png")


class FeatureBatches:
    """Batches of a features table: what the frozen networks say is there already."""

    def __init__(self, stream: RowStream, device: torch.device) -> None:
        self._stream, self._device = stream, device

    @property
    def position(self) -> int:
        return self._stream.position

    def seek(self, position: int) -> None:
        self._stream.seek(position)

    def take(self, count: int) -> Batch:
        rows = self._stream.take(count)
        return Batch(
            hq_B3HW=_images(rows, "hq_png").to(self._device),
            lq_latent_BCHW=self._tensor(rows, "lq_latent"),
            hq_latent_BCHW=self._tensor(rows, "hq_latent"),
            lq_tokens_BNC=self._tensor(rows, "lq_tokens"),
            sr_tokens_BNC=self._tensor(rows, "sr_tokens"),
        )

    def _tensor(self, rows: Sequence[Row], column: str) -> Tensor:
        return torch.from_numpy(stacked(rows, column)).to(self._device, torch.float32)


class PairBatches:
    """Batches of a pairs table, for a restorer without tokens: latents are encoded here.

    With `mirror`, half of the rows are flipped, drawn by their number in the stream.
    """

    def __init__(
        self,
        stream: RowStream,
        encode: Callable[[Tensor], Tensor],
        device: torch.device,
        *,
        seed: int,
        mirror: bool,
    ) -> None:
        """Take the frozen encoder as `encode`: image_B3HW in [0, 1] to latent_BCHW, no gradient."""
        self._stream, self._encode, self._device = stream, encode, device
        self._seed, self._mirror = seed, mirror
        self._latents: dict[tuple[int, int, bool], tuple[Tensor, Tensor]] = {}

    @property
    def position(self) -> int:
        return self._stream.position

    def seek(self, position: int) -> None:
        self._stream.seek(position)

    def take(self, count: int) -> Batch:
        rows = self._stream.take(count)
        flips = [self._is_flipped(row) for row in rows]
        hq_B3HW, lq_B3HW = (
            _flipped(_images(rows, column).to(self._device), flips) for column in PAIR_COLUMNS
        )
        if self._stream.is_kept:
            places = [(row.shard, row.index, flip) for row, flip in zip(rows, flips, strict=True)]
            latents = [
                self._remembered(place, hq_B3HW[i : i + 1], lq_B3HW[i : i + 1])
                for i, place in enumerate(places)
            ]
            hq_latent_BCHW, lq_latent_BCHW = (
                torch.cat(parts) for parts in zip(*latents, strict=True)
            )
        else:
            hq_latent_BCHW, lq_latent_BCHW = self._encode(torch.cat([hq_B3HW, lq_B3HW])).chunk(2)
        return Batch(
            hq_B3HW=hq_B3HW,
            lq_latent_BCHW=lq_latent_BCHW,
            hq_latent_BCHW=hq_latent_BCHW,
            lq_tokens_BNC=None,
            sr_tokens_BNC=None,
        )

    def _remembered(
        self, key: tuple[int, int, bool], hq_13HW: Tensor, lq_13HW: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Encode a row of a small table once: it comes up hundreds of times.

        One row at a time, since the last bits depend on what shares a batch, and a resumed training
        meets the rows in other company.
        """
        if key not in self._latents:
            self._latents[key] = (self._encode(hq_13HW), self._encode(lq_13HW))
        return self._latents[key]

    def _is_flipped(self, row: Row) -> bool:
        if not self._mirror:
            return False
        # The place in the table, beside the number: ranks count alike.
        place = f"shard {row.shard} row {row.index}"
        return bool(generator(self._seed, place, row.position, "mirror").random() < 0.5)


def _images(rows: Sequence[Row], column: str) -> Tensor:
    return images.to_tensor([images.decode_png(row.values[column][0].as_py()) for row in rows])


def _flipped(image_B3HW: Tensor, flips: Sequence[bool]) -> Tensor:
    flip_B111 = torch.tensor(flips, device=image_B3HW.device)[:, None, None, None]
    return torch.where(flip_B111, image_B3HW.flip(-1), image_B3HW)
