"""Stage `features@BACKBONE`: compute once what the frozen networks say about every training pair.

reads   pairs          face_id, variant, split, hq_png, lq_png
        intermediates   the same faces and variants: sr_png
        weights        the backbone's autoencoder, DINOv3
writes  features       face_id, variant, mirrored, and float16 tensors: lq_tokens and sr_tokens
                       (N, C), lq_latent and hq_latent (c, h, w); train faces only. With
                       `tokens: int8`, tokens are N x C bytes, beside float16 lq_scales and
                       sr_scales (N, C / 32): see `components.encoders.stored_tokens`

With `mirror`, every row is followed by its mirror image (the paper's random horizontal flips),
which has tensors of its own, since no network gives a mirrored face the mirrored tensor. A training
takes pictures from the pairs, and mirrors them.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import PositiveInt

from components import images, tables
from components.ahead import ahead
from components.backbones.backbone import Posterior, sampled
from components.backbones.catalogue import BackboneName, check_posterior
from components.encoders.stored_tokens import SCALES, StoredTokens, in_blocks
from components.params import Compute, Params
from components.weights.shared import SharedFolder, share
from pipelines import stage

SECTION = "features.{backbone}"


class FeaturesParams(Params):
    pairs: Path
    intermediates: Path
    weights: Path  # of the backbone
    encoder: Path  # weights of DINOv3
    features: Path
    encoder_size: PositiveInt  # pixels of a side that DINOv3 sees, a multiple of its patch
    mirror: bool
    tokens: StoredTokens = "float16"  # int8: about half of the bytes; decision 33 has the error
    posterior: Posterior = "mean"  # sample: one of each row, drawn once
    seed: int = 42  # of the samples; with the training's, a face's LQ latent is that of inference
    # Not under `compute`: the last bits of a network's output depend on the batch.
    batch_size: PositiveInt


class FeatureMaker:
    """Compute the features of one shard of pairs and of the intermediates that belong to it."""

    def __init__(
        self,
        *,
        pairs: tables.Table,
        intermediates: tables.Table,
        weights: SharedFolder,
        encoder: SharedFolder,
        params: FeaturesParams,
        backbone: BackboneName,
        size: int,
    ) -> None:
        import torch

        from components.backbones.catalogue import FAMILIES
        from components.encoders.dinov3 import DINOv3
        from components.weights.store import open_weights

        self._pairs, self._intermediates = pairs, intermediates
        self._params, self._size = params, size
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._backbone = FAMILIES[backbone](open_weights(weights.local()).root)
        self._backbone.drop_generator()
        dinov3 = DINOv3(open_weights(encoder.local()).root, input_size=params.encoder_size)
        self._encoder = dinov3.to(self._device)
        self._backbone.to(self._device, torch.float32)

    def __call__(self, shard: int) -> tables.Made:
        pairs = self._pairs.read_shard(
            shard, columns=["face_id", "variant", "split", "hq_png", "lq_png"]
        ).filter(pc.field("split") == "train")
        intermediates = self._intermediates.read_shard(shard)
        for key in ("face_id", "variant"):
            if not pairs[key].equals(intermediates[key]):
                raise ValueError(
                    f"shard {shard}: intermediates and pairs differ in {key}: "
                    "run 'dvc repro intermediates'"
                )
        faces = pairs.append_column("sr_png", intermediates["sr_png"])
        batches = faces.to_batches(max_chunksize=self._params.batch_size)
        with ThreadPoolExecutor(1) as threads:  # reads pictures while the device computes
            made = [self._features(*batch) for batch in ahead(threads, _read, batches)]
        return tables.Made(pa.concat_tables(made) if made else self._no_rows())

    def _features(
        self, faces: list[dict[str, Any]], pictures: dict[str, list[images.Image]]
    ) -> pa.Table:
        mirrored = [False] * len(faces)
        if self._params.mirror:
            faces = [face for face in faces for _ in range(2)]
            mirrored = [side for _ in mirrored for side in (False, True)]
            pictures = {
                role: [side for picture in each for side in (picture, images.mirror(picture))]
                for role, each in pictures.items()
            }
        return self._table(faces, mirrored, pictures)

    def _table(
        self, faces: list[dict[str, Any]], mirrored: list[bool], pictures: dict[str, list[Any]]
    ) -> pa.Table:
        import torch

        hq, lq, sr = (images.to_tensor(pictures[role], self._device) for role in ("hq", "lq", "sr"))
        sr_tokens, lq_tokens = self._encoder(torch.cat([sr, lq])).chunk(2)
        columns = {
            "face_id": pa.array([face["face_id"] for face in faces], pa.string()),
            "variant": pa.array([face["variant"] for face in faces], pa.int32()),
            "mirrored": pa.array(mirrored, pa.bool_()),
            **self._tokens("lq_tokens", lq_tokens, faces),
            **self._tokens("sr_tokens", sr_tokens, faces),
            "lq_latent": _column(self._latents("lq", lq, faces, mirrored).half()),
            "hq_latent": _column(self._latents("hq", hq, faces, mirrored).half()),
        }
        return pa.table(columns)

    def _tokens(
        self, column: str, tokens_BNC: Any, faces: list[dict[str, Any]]
    ) -> dict[str, pa.Array]:
        if self._params.tokens == "float16":
            return {column: _column(tokens_BNC.half())}
        names = [f"{column} of {face['face_id']}, variant {face['variant']}" for face in faces]
        blocks = in_blocks(tokens_BNC, names)
        numbers = tables.bytes_column(blocks.numbers_BNKG.cpu().numpy())
        return {column: numbers, SCALES[column]: _column(blocks.scales_BNK)}

    def _latents(
        self, role: str, image_B3HW: Any, faces: list[dict[str, Any]], mirrored: list[bool]
    ) -> Any:
        if self._params.posterior == "mean":
            return self._backbone.encode(image_B3HW)
        purposes = [f"{role} posterior{' mirrored' if flip else ''}" for flip in mirrored]
        keys = [
            (self._params.seed, face["face_id"], face["variant"], purpose)
            for face, purpose in zip(faces, purposes, strict=True)
        ]
        return sampled(self._backbone.moments(image_B3HW), keys)

    def _no_rows(self) -> pa.Table:
        """Return a table without rows that has the columns and shapes of the others."""
        black = np.zeros((self._size, self._size, 3), np.uint8)
        nobody = [{"face_id": "", "variant": 0}]
        return self._table(nobody, [False], {role: [black] for role in ("hq", "lq", "sr")}).slice(1)


def _read(batch: pa.RecordBatch) -> tuple[list[dict[str, Any]], dict[str, list[images.Image]]]:
    """Return the rows, and their pictures by role."""
    faces = batch.to_pylist()
    return faces, {
        role: [images.decode_png(face[f"{role}_png"]) for face in faces]
        for role in ("hq", "lq", "sr")
    }


def _column(tensor: Any) -> pa.Array:
    return tables.tensor_column(tensor.cpu().numpy())


def run(params: FeaturesParams, compute: Compute, backbone: BackboneName) -> tables.Table:
    """Make the table that `backbone` is trained on, one shard for each shard of pairs.

    Raises: ValueError if the backbone takes posterior means only and samples are asked for.
    """
    check_posterior(backbone, params.posterior)
    pairs = tables.Table.open(params.pairs).shared()
    intermediates = tables.Table.open(params.intermediates).shared()
    weights, encoder = share(params.weights), share(params.encoder)
    return tables.build(
        params.features,
        stage=f"features@{backbone}",
        params=params,
        inputs={
            "pairs": pairs.fingerprint,
            "intermediates": intermediates.fingerprint,
            "weights": weights.fingerprint,
            "encoder": encoder.fingerprint,
        },
        module="pipelines.features",
        work=range(len(pairs.shards)),
        maker=FeatureMaker,
        maker_args={
            "pairs": pairs,
            "intermediates": intermediates,
            "weights": weights,
            "encoder": encoder,
            "params": params,
            "backbone": backbone,
            "size": images.side(pairs.first("hq_png").as_py()),
        },
        compute=compute,
    )


if __name__ == "__main__":
    stage.start("pipelines.features")
