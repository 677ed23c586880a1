"""Stage `degrade`: give every aligned HQ face its degraded LQ twins (METHOD 6).

reads   faces   face_id: str, split: "train" or "test", hq_png: bytes (RGB)
writes  pairs   face_id, variant: int32 (0, 1, ...), split, hq_png (the target), lq_png: bytes,
                and what was drawn: sigma_x, sigma_y (pixels), angle (radians), scale,
                noise_sigma (1/255): float64, jpeg_quality: int32 in [1, 100]
"""

from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import PositiveInt

from components import images, tables
from components.degradation import recipe
from components.degradation.recipe import DegradationParams
from components.params import Compute, Params
from pipelines import stage

SECTION = "degrade"
SCHEMA = pa.schema(
    [
        ("face_id", pa.string()),
        ("variant", pa.int32()),
        ("split", pa.string()),
        ("hq_png", pa.binary()),
        ("lq_png", pa.binary()),
        ("sigma_x", pa.float64()),
        ("sigma_y", pa.float64()),
        ("angle", pa.float64()),
        ("scale", pa.float64()),
        ("noise_sigma", pa.float64()),
        ("jpeg_quality", pa.int32()),
    ]
)


class DegradeParams(Params):
    faces: Path
    pairs: Path
    seed: int
    variants: PositiveInt  # LQ twins of a face to train with
    test_variants: PositiveInt  # and of a face to test with
    recipe: DegradationParams


class PairMaker:
    """Make the pairs of one shard of the table `faces`."""

    def __init__(self, *, faces: tables.Table, params: DegradeParams) -> None:
        self._faces = faces
        self._params = params
        self._num_variants = {"train": params.variants, "test": params.test_variants}

    def __call__(self, shard: int) -> tables.Made:
        faces = self._faces.read_shard(shard, columns=["face_id", "split", "hq_png"])
        rows = [row for face in faces.to_pylist() for row in self._twins(**face)]
        return tables.Made(pa.Table.from_pylist(rows, schema=SCHEMA))

    def _twins(self, face_id: str, split: str, hq_png: bytes) -> list[dict[str, Any]]:
        face = images.decode_png(hq_png)
        rows = []
        for variant in range(self._num_variants[split]):
            drawn = recipe.draw(
                self._params.recipe,
                face.shape[:2],
                seed=self._params.seed,
                face_id=face_id,
                variant=variant,
            )
            hq, lq = recipe.make_pair(face, drawn, self._params.recipe)
            rows.append(
                {
                    "face_id": face_id,
                    "variant": variant,
                    "split": split,
                    "hq_png": hq_png if hq is face else images.encode_png(hq),
                    "lq_png": images.encode_png(lq),
                    **drawn.record(),
                }
            )
        return rows


def run(params: DegradeParams, compute: Compute) -> tables.Table:
    """Make the table `pairs`, one shard for each shard of faces.

    Raises: ValueError if a drawn scale leaves no pixel of a face.
    """
    faces = tables.Table.open(params.faces).shared()
    return tables.build(
        params.pairs,
        stage="degrade",
        params=params,
        inputs={"faces": faces.fingerprint},
        module="pipelines.degrade",
        work=range(len(faces.shards)),
        maker=PairMaker,
        maker_args={"faces": faces, "params": params},
        compute=compute,
    )


if __name__ == "__main__":
    stage.start("pipelines.degrade")
