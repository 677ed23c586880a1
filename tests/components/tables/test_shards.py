from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp

from components.storage import local_folder
from components.tables import shards
from components.tables.shards import Made, Note, Rejection

float16_tensors = hnp.arrays(np.float16, hnp.array_shapes(min_dims=2, max_dims=4, max_side=5))


def written(rows: pa.Table) -> bytes:
    data, _ = shards.encode("shard-00000.parquet", Made(rows))
    return data


def read(file: Path, columns: list[str] | None = None) -> pa.Table:
    return shards.read(local_folder(file.parent, file.parent), file.name, columns)


def values_of(column: pa.ChunkedArray) -> np.ndarray:
    """Read a tensor column as Arrow does; pyarrow's reader wants at least one row."""
    if not len(column):
        return np.empty((0, *column.type.shape), np.float16)
    return column.combine_chunks().to_numpy_ndarray()


@settings(deadline=None)
@given(float16_tensors)
def test_a_tensor_column_comes_back_bit_for_bit(tmp_path_factory, array):
    file = tmp_path_factory.mktemp("tensors") / "shard.parquet"
    table = pa.table({"tokens": shards.tensor_column(array)})
    file.write_bytes(written(table))

    rows = read(file)

    assert rows.schema == table.schema
    values = values_of(rows["tokens"])
    assert values.dtype == np.float16
    assert values.shape == array.shape
    assert values.tobytes() == array.tobytes()


def test_a_tensor_column_may_have_no_rows(tmp_path):
    empty = shards.tensor_column(np.empty((0, 3, 4), np.float16))
    file = tmp_path / "shard.parquet"
    file.write_bytes(written(pa.table({"tokens": empty})))

    assert values_of(read(file)["tokens"]).shape == (0, 3, 4)
    assert empty.type == shards.tensor_column(np.zeros((2, 3, 4), np.float16)).type


def test_float32_in_a_tensor_column_is_refused_not_rounded():
    with pytest.raises(ValueError, match="float32: round it first"):
        shards.tensor_column(np.zeros((2, 3), np.float32))


def test_numbers_of_8_bits_come_back_and_take_one_byte_each(tmp_path):
    array = np.random.default_rng(1).integers(-127, 128, (4, 201, 256), np.int8)
    file = tmp_path / "shard.parquet"
    file.write_bytes(written(pa.table({"tokens": shards.bytes_column(array)})))

    found = [np.frombuffer(row, np.int8) for row in read(file)["tokens"].to_pylist()]

    assert (np.stack(found).reshape(array.shape) == array).all()
    assert file.stat().st_size < 1.01 * array.nbytes
    with pytest.raises(ValueError, match="float16: round it first"):
        shards.bytes_column(array.astype(np.float16))


def test_a_slice_of_a_tensor_column_gives_its_own_rows():
    array = np.arange(24, dtype=np.float16).reshape(4, 3, 2)
    rows = pa.table({"tokens": shards.tensor_column(array)})

    assert (values_of(rows.slice(1, 2)["tokens"]) == array[1:3]).all()


def test_the_same_rows_are_the_same_bytes_however_they_were_put_together():
    whole = pa.table({"face_id": ["a", "b", "c"], "hq_png": pa.array([b"1", b"22", b"333"])})
    parts = pa.concat_tables([whole.slice(0, 1), whole.slice(1)]).replace_schema_metadata(
        {"made": "on a Tuesday"}
    )

    assert written(whole) == written(parts)
    assert written(whole) != written(whole.slice(1))


def test_a_note_says_all_that_the_manifest_needs():
    rows = pa.table({"face_id": ["a", "b"], "variant": pa.array([0, 1], pa.int32())})

    data, note = shards.encode("shard-00003.parquet", Made(rows, [Rejection("ü", "no face")]))

    assert (note.shard.file, note.shard.rows) == ("shard-00003.parquet", 2)
    assert note.shard.bytes == len(data)
    assert note.columns == [
        {"name": "face_id", "type": "string"},
        {"name": "variant", "type": "int32"},
    ]
    assert Note.loads(note.dumps()) == note


def test_a_missing_column_is_named_with_the_known_ones(tmp_path):
    file = tmp_path / "shard.parquet"
    file.write_bytes(written(pa.table({"face_id": ["a"]})))

    with pytest.raises(ValueError, match=r"no column \['face'\]; it has face_id"):
        read(file, ["face"])


def test_json_has_only_one_form():
    assert shards.json_bytes({"b": 1, "a": "ü"}) == '{\n  "a": "ü",\n  "b": 1\n}\n'.encode()
    with pytest.raises(ValueError, match="not JSON compliant"):
        shards.json_bytes({"a": float("nan")})
