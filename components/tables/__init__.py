"""Tables: folders of Parquet shards beside a manifest that says what they were made from."""

from components.tables.building import build
from components.tables.shards import Made, Rejection, bytes_column, tensor_column
from components.tables.table import Table

__all__ = ["Made", "Rejection", "Table", "build", "bytes_column", "tensor_column"]
