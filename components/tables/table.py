"""Tables: folders of Parquet shards beside a manifest that says what they were made from.

Shard i is what the stage's maker returns for work item i, and depends on nothing else. So any
number of workers writes the same bytes, the worker that makes a shard also writes it, and a killed
stage continues with the missing shards.

    data/faces/manifest.json           fingerprint, what it was made from, shards, rejected
    data/faces/shard-00000.parquet

With a data root (`components.storage`) the shards are in ROOT/tables/FINGERPRINT instead of
beside the manifest. The manifest is the same either way.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc

from components.storage import ROOT_VARIABLE, Storage, data_root, local_folder
from components.tables import shards
from components.tables.shards import Columns, Rejection, Shard

SCHEMA_VERSION = 2  # 1 called the fingerprint an identity
MANIFEST = "manifest.json"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Table:
    """A finished table; `Table.open` reads one. It can be sent to any worker that sees `place`."""

    path: Path  # of the folder with the manifest
    place: Storage  # of the shards
    stage: str
    fingerprint: str
    params: Mapping[str, Any]  # of the stage that made it
    inputs: Mapping[str, str]  # fingerprints of what it was made from, by name
    num_rows: int
    columns: Columns
    shards: list[Shard]
    rejected: list[Rejection]

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read the manifest and check that every shard is there and has its size.

        Raises: FileNotFoundError if there is no table or a shard is missing; ValueError if it was
        written in another format or a shard has another size.
        """
        try:
            manifest = json.loads((path / MANIFEST).read_bytes())
        except (FileNotFoundError, NotADirectoryError) as error:
            raise FileNotFoundError(f"there is no table at {path}: run 'dvc repro'") from error
        again = f"run 'dvc repro {manifest['stage']}'"
        if manifest["schema_version"] != SCHEMA_VERSION:
            found = manifest["schema_version"]
            raise ValueError(f"{path} has format {found}, not {SCHEMA_VERSION}: {again}")
        shards_listed = [Shard(**shard) for shard in manifest["shards"]]
        place, sizes = _find_shards(path, manifest["fingerprint"])
        for shard in shards_listed:
            if shard.file not in sizes:
                raise FileNotFoundError(_about_missing(path, place, shard.file, again))
            if (size := sizes[shard.file]) != shard.bytes:
                raise ValueError(
                    f"{place.url}/{shard.file} has {size} bytes, not {shard.bytes}: {again}"
                )
        return cls(
            path=path,
            place=place,
            stage=manifest["stage"],
            fingerprint=manifest["fingerprint"],
            params=manifest["params"],
            inputs=manifest["inputs"],
            num_rows=manifest["num_rows"],
            columns=manifest["columns"],
            shards=shards_listed,
            rejected=[Rejection(**rejection) for rejection in manifest["rejected"]],
        )

    def shared(self) -> Self:
        """Return the table with its shards where workers can read them: in the data root, if any.

        A table that was made without a data root is copied there first.
        """
        root = data_root()
        if root is None or not self.place.is_folder or root.holds(self.path):
            return self
        place = root / "tables" / self.fingerprint
        there = place.sizes()
        missing = [shard for shard in self.shards if there.get(shard.file) != shard.bytes]
        if missing:
            log.info("%s: copying %d shards to %s", self.path, len(missing), place.url)
        for shard in missing:
            place.put(Path(self.place.url) / shard.file, shard.file)
        if MANIFEST not in there:
            place.write(MANIFEST, (self.path / MANIFEST).read_bytes())
        return replace(self, place=place)

    def read_shard(self, index: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Read one shard. Raises: ValueError for a column that it does not have."""
        return shards.read(self.place, self.shards[index].file, columns)

    def first(self, column: str) -> pa.Scalar:
        """Read a column's first value. Raises: ValueError if the table has no rows."""
        for index, shard in enumerate(self.shards):
            if shard.rows:
                return self.read_shard(index, [column])[column][0]
        raise ValueError(f"{self.path} has no rows: run 'dvc repro {self.stage}'")

    def read(
        self, columns: Sequence[str] | None = None, where: tuple[str, Any] | None = None
    ) -> pa.Table:
        """Read all rows of a small table, or those whose column `where[0]` is `where[1]`."""
        every = range(len(self.shards))
        if where is None:
            return pa.concat_tables(self.read_shard(index, columns) for index in every)
        name, value = where
        found = []
        for index in every:
            rows = self.read_shard(index, None if columns is None else list({*columns, name}))
            rows = rows.filter(pc.equal(rows[name], value))
            found.append(rows if columns is None else rows.select(list(columns)))
        return pa.concat_tables(found)

    def verify(self) -> None:
        """Hash every shard. Raises: ValueError naming the first that is not what was written."""
        for shard in self.shards:
            if (found := shards.sha256_of(self.place, shard.file)) != shard.sha256:
                raise ValueError(
                    f"{self.place.url}/{shard.file} has SHA-256 {found}, but the manifest says "
                    f"{shard.sha256}: run 'dvc repro --force {self.stage}'"
                )


def _find_shards(path: Path, fingerprint: str) -> tuple[Storage, Mapping[str, int]]:
    """Find where the shards of a table lie, beside it or in the data root, and their sizes."""
    beside = local_folder(path, path)
    sizes = beside.sizes()
    root = data_root()
    if root is None or any(name.endswith(".parquet") for name in sizes):
        return beside, sizes
    place = root / "tables" / fingerprint
    return place, place.sizes()


def _about_missing(path: Path, place: Storage, file: str, again: str) -> str:
    if place.url == str(path.absolute()) and not any(path.glob("*.parquet")):
        return (
            f"{path} holds only a manifest: set {ROOT_VARIABLE} to the data root that it was made "
            f"with, or {again}"
        )
    return f"{place.url}/{file} is missing from its table: {again}"
