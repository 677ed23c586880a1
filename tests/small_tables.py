"""Small tables as the stages write them, without Ray: of pairs, and of any rows."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import torch

from components import images
from components.degradation import recipe
from components.degradation.recipe import DegradationParams
from components.encoders.stored_tokens import SCALES, in_blocks
from components.tables import Made, Table, shards
from components.tables.table import MANIFEST, SCHEMA_VERSION
from components.tables.unfinished import Unfinished
from pipelines import degrade

FINGERPRINT = "1dea" * 16
RECIPE = DegradationParams(
    kernel_size=7, sigma=(0.2, 1.5), downsample=(1, 2), noise=(0, 10), jpeg_quality=(60, 95)
)


def write_table(
    out: Path,
    parts: Sequence[pa.Table],
    *,
    stage: str,
    fingerprint: str = FINGERPRINT,
    params: Mapping[str, Any] | None = None,
    inputs: Mapping[str, str] | None = None,
) -> Table:
    """Write a table of these shards."""
    partial = Unfinished.resume(out, fingerprint, len(parts))
    notes = [partial.keep(index, Made(rows)) for index, rows in enumerate(parts)]
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "stage": stage,
        "fingerprint": fingerprint,
        "params": dict(params or {}),
        "inputs": dict(inputs or {}),
        "num_rows": sum(rows.num_rows for rows in parts),
        "columns": notes[0].columns,
        "shards": [json.loads(note.dumps())["shard"] for note in notes],
        "rejected": [],
    }
    partial.finish(out, MANIFEST, shards.json_bytes(manifest))
    return Table.open(out)


def in_8_bits(rows: pa.Table) -> pa.Table:
    """Store the tokens of these features as the stage does with `tokens: int8`."""
    for name, scales in SCALES.items():
        tokens_BNC = torch.from_numpy(rows[name].combine_chunks().to_numpy_ndarray().copy())
        blocks = in_blocks(tokens_BNC, [""] * len(tokens_BNC))
        numbers = shards.bytes_column(blocks.numbers_BNKG.numpy())
        rows = rows.set_column(rows.column_names.index(name), name, numbers)
        rows = rows.append_column(scales, shards.tensor_column(blocks.scales_BNK.numpy()))
    return rows


def pair_row(face_id: str, hq: images.Image, *, split: str) -> dict[str, Any]:
    """Give a face and its degraded twin as the stage `degrade` does."""
    drawn = recipe.draw(RECIPE, hq.shape[:2], seed=42, face_id=face_id, variant=0)
    png = {"hq_png": images.encode_png(hq), "lq_png": images.encode_png(recipe.apply(hq, drawn))}
    return {"face_id": face_id, "variant": 0, "split": split, **png, **drawn.record()}


def write_pairs(out: Path, parts: Sequence[Sequence[dict[str, Any]]]) -> Table:
    """Write a table of pairs from the rows of each shard."""
    return write_table(
        out,
        [pa.Table.from_pylist(rows, schema=degrade.SCHEMA) for rows in parts],
        stage="degrade",
        params={"recipe": RECIPE.model_dump(mode="json"), "seed": 42},
    )


def smooth_pairs(splits: Sequence[str], size: int) -> list[dict[str, Any]]:
    """Give a pair for each split that is named: smooth colours in place of a face."""
    rows = []
    for number, split in enumerate(splits):
        coarse = np.random.default_rng(number).integers(0, 256, (4, 4, 3), np.uint8)
        hq = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
        rows.append(pair_row(f"face {number}.png", np.asarray(hq, np.uint8), split=split))
    return rows
