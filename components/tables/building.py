"""Build a table: find what is there, make the missing shards, write the manifest."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from components import lineage
from components.params import Compute, Params
from components.storage import data_root
from components.tables import shards, unfinished
from components.tables.making import make_shards
from components.tables.shards import Note
from components.tables.table import MANIFEST, SCHEMA_VERSION, Table
from components.tables.unfinished import Unfinished

log = logging.getLogger(__name__)


def build(
    out: Path,
    *,
    stage: str,
    params: Params,
    inputs: Mapping[str, str],
    module: str,
    work: Sequence[Any],
    maker: type,
    maker_args: Mapping[str, Any],
    compute: Compute,
) -> Table:
    """Make the table `out`: shard i holds what `maker(**maker_args)(work[i])` returns, a `Made`.

    The maker is constructed once per worker. Its result must depend only on its arguments and the
    work item: any worker may make a shard, and again after a crash. A work item is light (a path,
    an index), never rows. `inputs` names every input with its fingerprint, and so decides `work`;
    `module` is the stage's module, whose sources count. All of that is hashed to the table's
    fingerprint. A table of the same fingerprint is returned as it is; finished shards of an
    interrupted run are kept.

    Raises: ShardError if the maker raises; LockedError if another process makes the same table.
    """
    made_from = {
        "schema_version": SCHEMA_VERSION,
        "stage": stage,
        "params": params.model_dump(mode="json"),
        "inputs": dict(inputs),
        "sources": lineage.source_hashes(module),
    }
    fingerprint = lineage.fingerprint(**made_from)
    if not work:
        raise ValueError(f"{stage} has nothing to make {out} from")
    with unfinished.lock(out):
        if (table := _finished(out, fingerprint)) is not None:
            _check_work(table, stage, len(work))
            unfinished.discard(out)
            log.info("%s: %s is up to date", stage, out)
            return table
        partial = Unfinished.resume(out, fingerprint, len(work), data_root())
        manifest = _manifest_of_another_run(partial)
        if manifest is None:
            _make(partial, stage, work, maker, maker_args, compute)
            manifest = _manifest_of_another_run(partial)
        if manifest is None:
            contents = _contents(stage, _notes(partial, len(work)))
            manifest = shards.json_bytes(made_from | {"fingerprint": fingerprint} | contents)
        partial.finish(out, MANIFEST, manifest)
    table = Table.open(out)
    log.info(
        "%s: %d rows in %d shards, %d rejected: %s",
        *(stage, table.num_rows, len(table.shards), len(table.rejected), out),
    )
    return table


def _finished(out: Path, fingerprint: str) -> Table | None:
    """Return the table if it is up to date. Raises: ValueError if `out` holds something else."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if not (out / MANIFEST).is_file():
        raise ValueError(f"{out} exists and is not a table: move it away, or write elsewhere")
    try:
        table = Table.open(out)
    except (FileNotFoundError, ValueError) as error:
        log.warning("%s will be made again: %s", out, error)
        return None
    return table if table.fingerprint == fingerprint else None


def _check_work(table: Table, stage: str, num_items: int) -> None:
    if len(table.shards) != num_items:
        raise ValueError(
            f"{table.path} was made from {len(table.shards)} work items, now there are "
            f"{num_items} under the same fingerprint: the inputs of {stage} do not determine its "
            "work"
        )


def _manifest_of_another_run(partial: Unfinished) -> bytes | None:
    """Return the manifest in the data root, if another run has made the whole table there."""
    if partial.shared is None:
        return None
    try:
        return partial.shared.read(MANIFEST)
    except FileNotFoundError:
        return None


def _make(
    partial: Unfinished,
    stage: str,
    work: Sequence[Any],
    maker: type,
    maker_args: Mapping[str, Any],
    compute: Compute,
) -> None:
    """Make the missing shards."""
    kept = partial.kept()
    if kept:
        log.info("%s: %d of %d shards are done, the rest follows", stage, len(kept), len(work))
    todo = {index: item for index, item in enumerate(work) if index not in kept}
    if todo:
        make_shards(partial, stage, todo, maker, maker_args, compute)


def _notes(partial: Unfinished, num_shards: int) -> list[Note]:
    kept = partial.kept()
    if gone := [index for index in range(num_shards) if index not in kept]:
        raise RuntimeError(
            f"shard {gone[0]} of {partial.table.url} was made and is missing now: run again"
        )
    return [kept[index] for index in range(num_shards)]


def _contents(stage: str, notes: Sequence[Note]) -> dict[str, Any]:
    columns = notes[0].columns
    for note in notes:
        if note.columns != columns:
            raise ValueError(
                f"{stage}: {note.shard.file} has columns {note.columns}, "
                f"{notes[0].shard.file} has {columns}: every shard needs the same columns"
            )
    rejected = [rejection for note in notes for rejection in note.rejected]
    return {
        "columns": columns,
        "num_rows": sum(note.shard.rows for note in notes),
        "shards": [asdict(note.shard) for note in notes],
        "num_rejected": len(rejected),
        "rejected": [asdict(rejection) for rejection in rejected],
    }
