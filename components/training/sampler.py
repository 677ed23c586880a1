"""The order in which a stream reads the rows of a table: endless, shuffled, and known in advance.

In epoch e the shards are permuted, and stream s of S takes every S-th of them. It opens a few at a
time (a group) and permutes the rows of the group. Both permutations are keyed by the seed and the
epoch, so one number, the rows read so far, says where a stream stands and continues.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from components.keyed_random import generator


@dataclass(frozen=True)
class Row:
    """One row, and its number in this stream."""

    position: int
    shard: int
    index: int  # within the shard
    values: pa.Table  # of one row


class RowStream:
    """The rows of one stream, one after another.

    A table of at most `shuffle_shards` shards is one group: it is read once and kept. For a larger
    one, two groups are in memory: the current one, and the next, which a thread reads ahead.
    """

    def __init__(
        self,
        num_rows: Sequence[int],
        read_shard: Callable[[int], pa.Table],
        *,
        seed: int,
        number: int = 0,
        num_streams: int = 1,
        shuffle_shards: int = 8,
    ) -> None:
        """Make a stream from the number of rows of each shard and the function that reads a shard.

        Raises: ValueError if there are fewer shards with rows than streams.
        """
        self._num_rows = tuple(num_rows)
        self._shards = [index for index, rows in enumerate(num_rows) if rows]
        if len(self._shards) < num_streams:
            raise ValueError(
                f"{num_streams} workers need a shard each, but the table has {len(self._shards)} "
                "with rows: train with fewer workers, or make the table with fewer rows per shard"
            )
        self._read_shard = read_shard
        self._seed, self._number, self._num_streams = seed, number, num_streams
        self._shuffle_shards = shuffle_shards
        self.is_kept = len(self._shards) <= shuffle_shards
        self._kept: dict[int, pa.Table] = {}
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="next-shards")
        self.seek(0)

    @property
    def position(self) -> int:
        """Return how many rows have been read."""
        return self._position

    def seek(self, position: int) -> None:
        """Continue after `position` rows, as if they had been read."""
        self._position = position
        self._rows = self._from(position)

    def kept(self, shard: int) -> pa.Table:
        """Return a whole shard that has been read, of a small table (`is_kept`)."""
        return self._kept[shard]

    def take(self, count: int) -> list[Row]:
        """Read the next rows."""
        return [next(self._rows) for _ in range(count)]

    def _from(self, position: int) -> Iterator[Row]:
        groups = self._groups_from(position)
        skip, group = next(groups)
        reading = self._reader.submit(self._read, group[1])
        while True:
            (epoch, shards), tables = group, reading.result()
            following, group = next(groups)
            reading = self._ahead(group[1])
            for shard, index in self._order(epoch, shards)[skip:]:
                row = Row(self._position, shard, index, tables[shard].slice(index, 1))
                self._position += 1
                yield row
            skip = following

    def _groups_from(self, position: int) -> Iterator[tuple[int, tuple[int, list[int]]]]:
        """Return (rows to skip, (epoch, shards)) for the group of row `position` and later ones."""
        skip, epoch = position, 0
        while True:
            mine = self._shards_of(epoch)
            rows = sum(self._num_rows[shard] for shard in mine)
            if skip >= rows:
                skip -= rows
            else:
                for start in range(0, len(mine), self._shuffle_shards):
                    group = mine[start : start + self._shuffle_shards]
                    rows = sum(self._num_rows[shard] for shard in group)
                    if skip >= rows:
                        skip -= rows
                    else:
                        yield skip, (epoch, group)
                        skip = 0
            epoch += 1

    def _shards_of(self, epoch: int) -> list[int]:
        """Return this stream's shards of an epoch; all streams permute all shards the same way."""
        order = generator(self._seed, "", epoch, "order of shards").permutation(len(self._shards))
        return [self._shards[place] for place in order[self._number :: self._num_streams]]

    def _order(self, epoch: int, shards: Sequence[int]) -> list[tuple[int, int]]:
        rows = [(shard, index) for shard in shards for index in range(self._num_rows[shard])]
        # The first shard names the group: in this epoch no other group has it, in any stream.
        order = generator(self._seed, f"shard {shards[0]}", epoch, "order of rows")
        return [rows[place] for place in order.permutation(len(rows))]

    def _ahead(self, shards: Sequence[int]) -> "Future[dict[int, pa.Table]]":
        if self.is_kept and all(shard in self._kept for shard in shards):
            done: Future[dict[int, pa.Table]] = Future()
            done.set_result(self._kept)
            return done
        return self._reader.submit(self._read, shards)

    def _read(self, shards: Sequence[int]) -> dict[int, pa.Table]:
        tables = {
            shard: self._kept[shard] if shard in self._kept else self._read_one(shard)
            for shard in shards
        }
        if self.is_kept:
            self._kept |= tables
        return tables

    def _read_one(self, shard: int) -> pa.Table:
        table = self._read_shard(shard).combine_chunks()
        if table.num_rows != self._num_rows[shard]:
            promised = self._num_rows[shard]
            raise ValueError(
                f"shard {shard} has {table.num_rows} rows, but {promised} were announced"
            )
        return table


def stacked(rows: Sequence[Row], column: str) -> np.ndarray:
    """Stack a fixed-shape tensor column of some rows: (B, ...), in the column's dtype, a copy."""
    values = pa.concat_tables([row.values for row in rows])[column].combine_chunks()
    shared = values.storage.flatten().to_numpy()
    return np.array(shared).reshape(len(rows), *values.type.shape)  # Arrow's memory is read-only


def stacked_bytes(rows: Sequence[Row], column: str) -> np.ndarray:
    """Stack a column of bytes of some rows: (B, bytes of a row) int8, a copy."""
    values = pa.concat_tables([row.values for row in rows])[column]
    return np.stack([np.frombuffer(value.as_buffer(), np.int8) for value in values])
