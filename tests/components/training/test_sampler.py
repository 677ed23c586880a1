import threading
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.training.sampler import Row, RowStream, stacked

NUM_ROWS = (5, 0, 4, 6, 5, 3)
ALL = {(shard, index) for shard, rows in enumerate(NUM_ROWS) for index in range(rows)}


def read(shard: int) -> pa.Table:
    return pa.table({"name": [f"{shard}/{index}" for index in range(NUM_ROWS[shard])]})


def stream(
    number: int = 0, num_streams: int = 1, shuffle_shards: int = 2, seed: int = 3
) -> RowStream:
    return RowStream(
        NUM_ROWS,
        read,
        seed=seed,
        number=number,
        num_streams=num_streams,
        shuffle_shards=shuffle_shards,
    )


def places(rows: list[Row]) -> list[tuple[int, int]]:
    return [(row.shard, row.index) for row in rows]


def test_an_epoch_has_every_row_once_and_the_next_another_order() -> None:
    rows = stream()
    first, second = places(rows.take(len(ALL))), places(rows.take(len(ALL)))
    assert len(first) == len(set(first))
    assert set(first) == ALL == set(second)
    assert first != second
    assert first != sorted(first)


def test_a_row_has_the_values_of_its_shard_and_index() -> None:
    for row in stream().take(30):
        assert row.values["name"].to_pylist() == [f"{row.shard}/{row.index}"]


def test_streams_share_an_epoch_without_overlap() -> None:
    shards = [{row.shard for row in stream(number, 2).take(8)} for number in range(2)]
    assert not shards[0] & shards[1]


def test_the_rows_of_a_group_of_shards_are_mixed() -> None:
    seen = [shard for shard, _ in places(stream(shuffle_shards=6).take(len(ALL)))]
    changes = sum(a != b for a, b in pairwise(seen))
    assert changes > len(NUM_ROWS)


def test_the_seed_decides() -> None:
    assert places(stream(seed=3).take(20)) == places(stream(seed=3).take(20))
    assert places(stream(seed=3).take(20)) != places(stream(seed=4).take(20))


@settings(deadline=None)
@given(
    position=st.integers(0, 200),
    num_streams=st.integers(1, 3),
    shuffle_shards=st.sampled_from([1, 2, 6]),
    data=st.data(),
)
def test_a_stream_continues_exactly_where_it_stopped(
    position: int, num_streams: int, shuffle_shards: int, data: st.DataObject
) -> None:
    number = data.draw(st.integers(0, num_streams - 1))
    whole, resumed = (stream(number, num_streams, shuffle_shards) for _ in range(2))
    whole.take(position)
    resumed.seek(position)
    assert resumed.position == whole.position == position
    assert places(resumed.take(25)) == places(whole.take(25))
    assert resumed.position == position + 25


def test_fewer_shards_with_rows_than_workers_are_refused_with_advice() -> None:
    with pytest.raises(
        ValueError, match=r"6 workers need a shard each, but the table has 5 .*fewer"
    ):
        stream(num_streams=6)


def test_a_small_table_is_read_once_and_a_large_one_in_groups() -> None:
    reads: list[int] = []

    def counted(shard: int) -> pa.Table:
        reads.append(shard)
        return read(shard)

    small = RowStream(NUM_ROWS, counted, seed=1, shuffle_shards=5)
    small.take(5 * len(ALL))
    assert small.is_kept
    assert sorted(reads) == [0, 2, 3, 4, 5]
    reads.clear()
    large = RowStream(NUM_ROWS, counted, seed=1, shuffle_shards=1)
    large.take(1)
    assert not large.is_kept
    large.take(len(ALL) - 1)
    assert len(reads) <= 6  # the epoch, and at most one shard of the next


def test_the_next_shard_is_read_in_another_thread() -> None:
    threads: list[str] = []

    def noted(shard: int) -> pa.Table:
        threads.append(threading.current_thread().name)
        return read(shard)

    RowStream(NUM_ROWS, noted, seed=1, shuffle_shards=1).take(10)
    assert threads
    assert threading.current_thread().name not in threads


def test_an_error_of_the_reader_is_raised() -> None:
    def broken(shard: int) -> pa.Table:
        raise OSError(f"shard {shard} is gone")

    with pytest.raises(OSError, match="is gone"):
        RowStream(NUM_ROWS, broken, seed=1).take(1)


def test_a_shard_with_another_number_of_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="rows, but 7 were announced"):
        RowStream((7,), lambda _: read(0), seed=1).take(1)


def test_tensor_columns_are_stacked_in_the_order_of_the_rows() -> None:
    values = np.arange(5 * 6, dtype=np.float16).reshape(5, 2, 3)
    storage = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), 6)
    column = pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.float16(), (2, 3)), storage)
    rows = RowStream((5,), lambda _: pa.table({"tensor": column}), seed=2).take(4)
    expected = values[[row.index for row in rows]]
    np.testing.assert_array_equal(stacked(rows, "tensor"), expected)
