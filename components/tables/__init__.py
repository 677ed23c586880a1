"""Tables: folders of Parquet shards beside a manifest that says what they were made from."""

from components.tables.building import build
from components.tables.shards import Made, Rejection, Shard, tensor_column, tensor_values
from components.tables.table import Table

__all__ = ["Made", "Rejection", "Shard", "Table", "build", "tensor_column", "tensor_values"]
