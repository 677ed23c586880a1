"""Stage `intermediates@BACKBONE`: cache what a backbone will be conditioned on.

reads   pairs          face_id, variant, split, lq_png
        the model      the other backbone's plain restorer (METHOD, section 5), or any restorer
                       folder, such as 'hdrface import' makes
writes  intermediates   face_id, variant, sr_png: bytes; train faces only, since a test face is
                       restored live, by the whole restorer
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import PositiveInt

from components import images, tables
from components.ahead import ahead
from components.backbones.catalogue import BackboneName
from components.images import Image
from components.params import Compute, Params
from components.restorers.catalogue import FOLDER, kind_of
from components.weights.shared import SharedFolder, share
from components.weights.store import open_model
from pipelines import stage

if TYPE_CHECKING:
    from components.restorers.by_folder import FolderRestorer

_Batch: TypeAlias = tuple[list[dict[str, Any]], list[Image]]  # rows, and a picture of each

SECTION = "intermediates.{backbone}"
SCHEMA = pa.schema([("face_id", pa.string()), ("variant", pa.int32()), ("sr_png", pa.binary())])


class IntermediatesParams(Params):
    pairs: Path
    model: Path
    intermediates: Path
    # Not under `compute`: the last bits of a network's output depend on the batch.
    batch_size: PositiveInt


class IntermediateMaker:
    """Restore the train faces of one shard of the table `pairs`."""

    def __init__(self, *, pairs: tables.Table, model: SharedFolder, batch_size: int) -> None:
        import torch

        from components.restorers.folder import load_restorer

        self._pairs = pairs
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._restorer = load_restorer(model.local(), device=self._device)
        self._batch_size = batch_size

    def __call__(self, shard: int) -> tables.Made:
        pairs = self._pairs.read_shard(shard, columns=["face_id", "variant", "split", "lq_png"])
        pairs = pairs.filter(pc.field("split") == "train")
        batches = pairs.to_batches(max_chunksize=self._batch_size)
        with ThreadPoolExecutor(2) as threads:  # pictures are read and written beside the device
            restored = map(self._restore, ahead(threads, _read, batches))
            rows = [row for some in ahead(threads, _rows, restored) for row in some]
        return tables.Made(pa.Table.from_pylist(rows, schema=SCHEMA))

    def _restore(self, batch: _Batch) -> _Batch:
        faces, pictures = batch
        restored = self._restorer.restore(
            images.to_tensor(pictures, self._device),
            [face["face_id"] for face in faces],
            [face["variant"] for face in faces],
        ).restored_B3HW
        return faces, images.from_tensor(restored)


def _read(batch: pa.RecordBatch) -> _Batch:
    faces = batch.to_pylist()
    return faces, [images.decode_png(face["lq_png"]) for face in faces]


def _rows(batch: _Batch) -> list[dict[str, Any]]:
    return [
        {
            "face_id": face["face_id"],
            "variant": face["variant"],
            "sr_png": images.encode_png(picture),
        }
        for face, picture in zip(*batch, strict=True)
    ]


def run(params: IntermediatesParams, compute: Compute, backbone: BackboneName) -> tables.Table:
    """Make the table of what `backbone` is conditioned on, one shard for each shard of pairs."""
    pairs, model = tables.Table.open(params.pairs).shared(), share(params.model)
    _require_results(params.model, pairs)
    return tables.build(
        params.intermediates,
        stage=f"intermediates@{backbone}",
        params=params,
        inputs={"pairs": pairs.fingerprint, "model": model.fingerprint},
        module="pipelines.intermediates",
        work=range(len(pairs.shards)),
        maker=IntermediateMaker,
        maker_args={"pairs": pairs, "model": model, "batch_size": params.batch_size},
        compute=compute,
    )


def _require_results(model: Path, pairs: tables.Table) -> None:
    """Raise ValueError with their names if `model` is a folder of results and lacks some."""
    from components.restorers.folder import load_restorer

    if kind_of(open_model(model)) == FOLDER:
        faces = pairs.read(columns=["face_id", "variant"]).to_pylist()
        results = cast("FolderRestorer", load_restorer(model))
        results.require([(face["face_id"], face["variant"]) for face in faces])


if __name__ == "__main__":
    stage.start("pipelines.intermediates")
