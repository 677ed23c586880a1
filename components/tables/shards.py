"""One shard of a table: rows as Parquet bytes that depend only on the rows.

Only this module and `unfinished.py` touch the files of a table.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.storage import Storage

_CHUNK = 8 << 20

Columns = list[dict[str, str]]  # name and Arrow type of each column, in order


@dataclass(frozen=True)
class Rejection:
    """A picture or face that could not be used, and why."""

    id: str
    reason: str


@dataclass
class Made:
    """What a maker returns for one work item: the rows of one shard, in order."""

    rows: pa.Table
    rejected: list[Rejection] = field(default_factory=list)


@dataclass(frozen=True)
class Shard:
    """A file of a table, named relative to its manifest."""

    file: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Note:
    """What the manifest will say about a shard; written after the shard, when that is complete."""

    shard: Shard
    columns: Columns
    rejected: list[Rejection]

    def dumps(self) -> bytes:
        return json_bytes(asdict(self))

    @classmethod
    def loads(cls, data: bytes) -> Self:
        fields = json.loads(data)
        return cls(
            shard=Shard(**fields["shard"]),
            columns=fields["columns"],
            rejected=[Rejection(**rejection) for rejection in fields["rejected"]],
        )


def shard_file(index: int) -> str:
    return f"shard-{index:05d}.parquet"


def encode(file: str, made: Made) -> tuple[bytes, Note]:
    """Encode rows as Parquet: equal rows give equal bytes, however they were put together."""
    rows = made.rows.replace_schema_metadata(None).combine_chunks()
    sink = pa.BufferOutputStream()
    pq.write_table(
        rows,
        sink,
        row_group_size=max(rows.num_rows, 1),  # a shard is read as a whole: one group, few seeks
        compression="zstd",
        compression_level=1,
        # Pictures and tensors do not repeat, and nobody searches by them.
        use_dictionary=False,
        write_statistics=False,
    )
    data = sink.getvalue().to_pybytes()
    shard = Shard(file, rows.num_rows, len(data), hashlib.sha256(data).hexdigest())
    return data, Note(shard, describe(rows.schema), list(made.rejected))


def describe(schema: pa.Schema) -> Columns:
    return [{"name": column.name, "type": str(column.type)} for column in schema]


def read(place: Storage, file: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a shard, or columns of it. Raises: ValueError for a column that it does not have."""
    return place.read_parts(file, lambda opened: _read(opened, f"{place.url}/{file}", columns))


def _read(opened: pa.NativeFile, name: str, columns: Sequence[str] | None) -> pa.Table:
    with pq.ParquetFile(opened) as parquet:
        if columns is not None and (unknown := set(columns) - set(parquet.schema_arrow.names)):
            known = ", ".join(parquet.schema_arrow.names)
            raise ValueError(f"{name} has no column {sorted(unknown)}; it has {known}")
        return parquet.read(columns=None if columns is None else list(columns))


def sha256_of(place: Storage, file: str) -> str:
    """Hash a shard as it is now."""

    def digest(opened: pa.NativeFile) -> str:
        found = hashlib.sha256()
        while chunk := opened.read(_CHUNK):
            found.update(chunk)
        return found.hexdigest()

    return place.read_parts(file, digest)


def json_bytes(value: Mapping[str, Any]) -> bytes:
    """Encode readable JSON in only one form: sorted keys, two spaces, a line end."""
    text = json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    return f"{text}\n".encode()


def bytes_column(array: np.ndarray) -> pa.Array:
    """Make a column of (B, ...) int8: as many bytes per row as a row has numbers.

    Parquet has no numbers of 8 bits. It would store each in 32: 1.5 times the bytes after
    compression, and several times as long to read.

    Raises: ValueError for another dtype.
    """
    if array.dtype != np.int8:
        raise ValueError(f"a column of bytes holds int8, got {array.dtype}: round it first")
    width = int(np.prod(array.shape[1:]))
    return pa.array([row.tobytes() for row in array], pa.binary(width))


def tensor_column(array: np.ndarray) -> pa.Array:
    """Make a column of (B, ...) float16: one tensor of fixed shape per row.

    Raises: ValueError for another dtype: rounding is the maker's decision.
    """
    if array.dtype != np.float16:
        raise ValueError(f"a tensor column holds float16, got {array.dtype}: round it first")
    if array.ndim < 2 or 0 in array.shape[1:]:
        raise ValueError(f"a tensor column needs (rows, ...), got shape {array.shape}")
    # `from_numpy_ndarray` refuses zero rows, and stores a permutation that Arrow cannot read back.
    column_type = pa.fixed_shape_tensor(pa.float16(), array.shape[1:])
    values = pa.array(np.ascontiguousarray(array).reshape(-1))
    width = int(np.prod(array.shape[1:]))
    return pa.ExtensionArray.from_storage(
        column_type, pa.FixedSizeListArray.from_arrays(values, width)
    )
