"""Make the batches of a training step from rows of a table.

B batch, N tokens, C token width or latent channels, H and W: of the image, or of the latent.
"""

from collections.abc import Callable, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from components import images
from components.backbones.backbone import Posterior, sampled
from components.encoders.stored_tokens import BLOCK, SCALES, Blocks, from_blocks
from components.keyed_random import generator
from components.restorers.hdrface import as_cached
from components.tables import Table
from components.training.sampler import Row, RowStream, stacked, stacked_bytes
from components.training.step import Batch

_KEY = ("face_id", "variant")
_FEATURE_COLUMNS = ("mirrored", "lq_tokens", "sr_tokens", "lq_latent", "hq_latent")
PAIR_COLUMNS = ("hq_png", "lq_png")
ENCODED_TOGETHER = 16  # rows


def read_features(features: Table, pairs: Table, shard: int) -> pa.Table:
    """Read a shard for `FeatureBatches`: features, tokens in either form, and the pairs' pictures.

    `pairs` is the table that the features were made from. A mirrored row has the picture of its
    face, `hq_png`, not mirrored yet.

    Raises: ValueError if the two shards are not of the same faces.
    """
    scales = [column["name"] for column in features.columns if column["name"] in SCALES.values()]
    rows = features.read_shard(shard, [*_KEY, *_FEATURE_COLUMNS, *scales])
    faces = pairs.read_shard(shard, [*_KEY, "split", "hq_png"]).filter(pc.field("split") == "train")
    # A mirrored row follows the one that it is the mirror image of.
    straight = pc.cast(pc.invert(rows["mirrored"]), pa.int64())
    if (pc.sum(straight).as_py() or 0) == faces.num_rows:
        faces = faces.take(pc.subtract(pc.cumulative_sum(straight), 1))
    if any(not faces[key].equals(rows[key]) for key in _KEY):
        raise ValueError(
            f"shard {shard} of {features.path} and {pairs.path} are not of the same faces: "
            f"run 'dvc repro {features.stage}'"
        )
    return rows.drop_columns([*_KEY]).append_column("hq_png", faces["hq_png"])


def token_width(features: Table) -> int:
    """Return C, the width of a features table's tokens. Raises: ValueError if it has no rows."""
    tokens = features.first("sr_tokens").type
    if not pa.types.is_fixed_size_binary(tokens):
        return int(tokens.shape[1])
    return int(features.first(SCALES["sr_tokens"]).type.shape[1]) * BLOCK


class FeatureBatches:
    """Batches of a features table, which holds the frozen networks' outputs; see `read_features`.

    Pictures of mirrored rows are mirrored here. Tokens in 8 bits go to the device as they are, and
    become float32 there.
    """

    def __init__(self, stream: RowStream, device: torch.device) -> None:
        self._stream, self._device = stream, device

    @property
    def position(self) -> int:
        return self._stream.position

    def seek(self, position: int) -> None:
        self._stream.seek(position)

    def take(self, count: int) -> Batch:
        rows = self._stream.take(count)
        flips = [row.values["mirrored"][0].as_py() for row in rows]
        return Batch(
            hq_B3HW=_flipped(_images(rows, "hq_png", self._device), flips),
            lq_latent_BCHW=self._sent(rows, "lq_latent").float(),
            hq_latent_BCHW=self._sent(rows, "hq_latent").float(),
            lq_tokens_BNC=self._tokens(rows, "lq_tokens"),
            sr_tokens_BNC=self._tokens(rows, "sr_tokens"),
        )

    def _tokens(self, rows: Sequence[Row], column: str) -> Tensor:
        if not pa.types.is_fixed_size_binary(rows[0].values[column].type):
            return self._sent(rows, column).float()
        numbers = torch.from_numpy(stacked_bytes(rows, column)).to(self._device)
        scales_BNK = self._sent(rows, SCALES[column])
        return from_blocks(Blocks(numbers.view(*scales_BNK.shape, BLOCK), scales_BNK))

    def _sent(self, rows: Sequence[Row], column: str) -> Tensor:
        """Send a column to the device in its own numbers, which are fewer bytes than float32."""
        return torch.from_numpy(stacked(rows, column)).to(self._device)


class PairBatches:
    """Batches of a pairs table, for a restorer without tokens: latents are encoded here.

    With `mirror`, half of the rows are flipped; the draw is keyed by their number in the stream. So
    is that of a latent, if it is a sample of the posterior: each use of a row has another one.
    """

    def __init__(
        self,
        stream: RowStream,
        encode: Callable[[Tensor], Tensor],
        device: torch.device,
        *,
        seed: int,
        mirror: bool,
        posterior: Posterior = "mean",
    ) -> None:
        """Make batches; `encode` is the frozen encoder: image_B3HW in [0, 1] -> latent_BCHW.

        For `sample`, it returns the posterior's moments (`Backbone.moments`).
        """
        self._stream, self._encode, self._device = stream, encode, device
        self._seed, self._mirror, self._posterior = seed, mirror, posterior
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
            _flipped(_images(rows, column, self._device), flips) for column in PAIR_COLUMNS
        )
        if self._stream.is_kept:
            latents = [self._remembered(row, flip) for row, flip in zip(rows, flips, strict=True)]
            hq_latent_BCHW, lq_latent_BCHW = (
                torch.stack(parts) for parts in zip(*latents, strict=True)
            )
        else:
            hq_latent_BCHW, lq_latent_BCHW = self._encode(torch.cat([hq_B3HW, lq_B3HW])).chunk(2)
        if self._posterior == "sample":
            hq_latent_BCHW = self._sampled(rows, hq_latent_BCHW, "hq posterior")
            lq_latent_BCHW = self._sampled(rows, lq_latent_BCHW, "lq posterior")
        return Batch(
            hq_B3HW=hq_B3HW,
            lq_latent_BCHW=lq_latent_BCHW,
            hq_latent_BCHW=hq_latent_BCHW,
            lq_tokens_BNC=None,
            sr_tokens_BNC=None,
        )

    def _remembered(self, row: Row, flip: bool) -> tuple[Tensor, Tensor]:
        """Encode a part of a small table once, HQ and LQ: each row is used hundreds of times.

        The same rows are always encoded together: the last bits depend on the other rows of a
        batch, and a resumed training has others.
        """
        part, place = divmod(row.index, ENCODED_TOGETHER)
        key = (row.shard, part, flip)
        if key not in self._latents:
            together = self._stream.kept(row.shard).slice(part * ENCODED_TOGETHER, ENCODED_TOGETHER)
            flips = [flip] * together.num_rows
            hq_B3HW, lq_B3HW = (
                _flipped(_pictures(together[column], self._device), flips)
                for column in PAIR_COLUMNS
            )
            self._latents[key] = (self._encode(hq_B3HW), self._encode(lq_B3HW))
        hq_latent_BCHW, lq_latent_BCHW = self._latents[key]
        return hq_latent_BCHW[place], lq_latent_BCHW[place]

    def _sampled(self, rows: Sequence[Row], moments_BCHW: Tensor, purpose: str) -> Tensor:
        keys = [(self._seed, _place(row), row.position, purpose) for row in rows]
        return as_cached(sampled(moments_BCHW, keys))

    def _is_flipped(self, row: Row) -> bool:
        if not self._mirror:
            return False
        return bool(generator(self._seed, _place(row), row.position, "mirror").random() < 0.5)


def _place(row: Row) -> str:
    """Name a row by its place in the table: every stream counts its positions from 0."""
    return f"shard {row.shard} row {row.index}"


def _images(rows: Sequence[Row], column: str, device: torch.device) -> Tensor:
    return _pictures(pa.concat_tables([row.values for row in rows])[column], device)


def _pictures(column: pa.ChunkedArray, device: torch.device) -> Tensor:
    return images.to_tensor([images.decode_png(data) for data in column.to_pylist()], device)


def _flipped(image_B3HW: Tensor, flips: Sequence[bool]) -> Tensor:
    flip_B111 = torch.tensor(flips, device=image_B3HW.device)[:, None, None, None]
    return torch.where(flip_B111, image_B3HW.flip(-1), image_B3HW)
