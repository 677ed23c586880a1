from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from components import images
from components.encoders.stored_tokens import from_blocks, in_blocks
from components.keyed_random import normal
from components.training.batches import (
    FeatureBatches,
    PairBatches,
    read_features,
    token_width,
)
from components.training.sampler import RowStream
from components.training.step import Batch
from tests.small_tables import in_8_bits, write_table

NUM_ROWS = (3, 4)
CPU = torch.device("cpu")


def picture(row: int, column: int) -> np.ndarray:
    return np.random.default_rng((row, column)).integers(0, 256, (8, 8, 3), dtype=np.uint8)


def tensors(values: np.ndarray) -> pa.ExtensionArray:
    kind = pa.fixed_shape_tensor(pa.float16(), values.shape[1:])
    width = int(np.prod(values.shape[1:]))
    storage = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), width)
    return pa.ExtensionArray.from_storage(kind, storage)


def values(shard: int, shape: tuple[int, ...]) -> np.ndarray:
    draw = np.random.default_rng(shard)
    return draw.standard_normal((NUM_ROWS[shard], *shape)).astype(np.float16)


def features(shard: int, width: int = 6) -> pa.Table:
    return pa.table(
        {
            "face_id": [f"face {i // 2}" for i in range(NUM_ROWS[shard])],
            "variant": pa.array([3] * NUM_ROWS[shard], pa.int32()),
            "mirrored": [i % 2 == 1 for i in range(NUM_ROWS[shard])],
            "lq_tokens": tensors(values(shard, (5, width))),
            "sr_tokens": tensors(values(shard, (5, width)) * 2),
            "lq_latent": tensors(values(shard, (4, 2, 2))),
            "hq_latent": tensors(values(shard, (4, 2, 2)) * 2),
        }
    )


def faces_of_features(shard: int) -> pa.Table:
    """Make the pairs that `features` are of, after a face of the test split."""
    straight = [i for i in range(NUM_ROWS[shard]) if i % 2 == 0]
    return pa.table(
        {
            "face_id": ["a test face", *(f"face {i // 2}" for i in straight)],
            "variant": pa.array([3] * (1 + len(straight)), pa.int32()),
            "split": ["test", *("train" for _ in straight)],
            "hq_png": [b"", *(images.encode_png(picture(shard, i)) for i in straight)],
        }
    )


@pytest.mark.parametrize(
    "others", [faces_of_features(0).slice(2), faces_of_features(0).take([0, 2, 1])]
)
def test_features_and_pairs_of_different_faces_are_refused(
    others: pa.Table, tmp_path: Path
) -> None:
    table = write_table(tmp_path / "sd21", [features(0)], stage="features@sd21")
    pairs = write_table(tmp_path / "pairs", [others], stage="degrade")
    with pytest.raises(ValueError, match=r"not of the same faces: run 'dvc repro features@sd21'"):
        read_features(table, pairs, 0)


def pairs(shard: int) -> pa.Table:
    rows = range(NUM_ROWS[shard])
    return pa.table(
        {
            "hq_png": [images.encode_png(picture(shard, i)) for i in rows],
            "lq_png": [images.encode_png(picture(shard, 10 + i)) for i in rows],
        }
    )


def stream(read: object, shuffle_shards: int = 2) -> RowStream:
    return RowStream(NUM_ROWS, read, seed=5, shuffle_shards=shuffle_shards)  # type: ignore[arg-type]


def encode(image_B3HW: Tensor) -> Tensor:
    return F.max_pool2d(image_B3HW, 2)


def pair_batches(*, mirror: bool, shuffle_shards: int = 2) -> PairBatches:
    return PairBatches(stream(pairs, shuffle_shards), encode, CPU, seed=5, mirror=mirror)


def reader(out: Path, rows: Callable[[int], pa.Table]) -> Callable[[int], pa.Table]:
    table = write_table(out / "sd21", [rows(0), rows(1)], stage="features@sd21")
    faces = [faces_of_features(0), faces_of_features(1)]
    pairs = write_table(out / "pairs", faces, stage="degrade")
    return lambda shard: read_features(table, pairs, shard)


def narrow(shard: int) -> pa.Table:
    return in_8_bits(features(shard, width=64))


def test_tokens_in_8_bits_become_those_of_their_own_rows(tmp_path: Path) -> None:
    read = reader(tmp_path, narrow)
    batch = FeatureBatches(stream(read), CPU).take(7)
    assert batch.lq_tokens_BNC is not None
    assert batch.sr_tokens_BNC is not None
    for place, row in enumerate(stream(read).take(7)):
        token_1NC = torch.from_numpy(values(row.shard, (5, 64))[row.index : row.index + 1])
        lq_1NC, sr_1NC = (from_blocks(in_blocks(one, ["a"])) for one in (token_1NC, 2 * token_1NC))
        assert torch.equal(batch.lq_tokens_BNC[place : place + 1], lq_1NC)
        assert torch.equal(batch.sr_tokens_BNC[place : place + 1], sr_1NC)
        torch.testing.assert_close(lq_1NC, token_1NC.float(), rtol=0, atol=0.02)
    assert all(tensor is not None and tensor.dtype == torch.float32 for tensor in batch)


@pytest.mark.parametrize(("rows", "width"), [(features, 6), (narrow, 64)])
def test_the_width_of_tokens_is_that_of_either_form(
    tmp_path: Path, rows: Callable[[int], pa.Table], width: int
) -> None:
    table = write_table(tmp_path / "features", [rows(0)], stage="features@sd21")
    assert token_width(table) == width


def test_a_batch_of_features_has_the_values_of_its_rows_and_mirrors_pictures(
    tmp_path: Path,
) -> None:
    read = reader(tmp_path, features)
    batch = FeatureBatches(stream(read), CPU).take(7)
    for place, row in enumerate(stream(read).take(7)):
        straight, is_mirrored = divmod(row.index, 2)
        picture_13HW = images.to_tensor([picture(row.shard, 2 * straight)])
        if is_mirrored:
            picture_13HW = picture_13HW.flip(-1)
        assert torch.equal(batch.hq_B3HW[place : place + 1], picture_13HW)
        token_NC = torch.from_numpy(values(row.shard, (5, 6))[row.index]).float()
        assert batch.lq_tokens_BNC is not None
        assert batch.sr_tokens_BNC is not None
        assert torch.equal(batch.lq_tokens_BNC[place], token_NC)
        assert torch.equal(batch.sr_tokens_BNC[place], 2 * token_NC)
        latent_CHW = torch.from_numpy(values(row.shard, (4, 2, 2))[row.index]).float()
        assert torch.equal(batch.lq_latent_BCHW[place], latent_CHW)
        assert torch.equal(batch.hq_latent_BCHW[place], 2 * latent_CHW)
    assert all(tensor is not None and tensor.dtype == torch.float32 for tensor in batch)


@pytest.mark.parametrize("shuffle_shards", [1, 2])
def test_pairs_are_mirrored_together_before_they_are_encoded(shuffle_shards: int) -> None:
    plain = pair_batches(mirror=False, shuffle_shards=shuffle_shards).take(60)
    mirrored = pair_batches(mirror=True, shuffle_shards=shuffle_shards).take(60)
    flips = [not torch.equal(a, b) for a, b in zip(plain.hq_B3HW, mirrored.hq_B3HW, strict=True)]
    assert 15 < sum(flips) < 45
    for place, flip in enumerate(flips):
        for whole, changed in _images(plain, mirrored):
            expected = whole[place].flip(-1) if flip else whole[place]
            assert torch.equal(changed[place], expected)
    assert torch.equal(mirrored.hq_latent_BCHW, encode(mirrored.hq_B3HW))
    assert mirrored.lq_tokens_BNC is None


@pytest.mark.parametrize("shuffle_shards", [1, 2])
def test_each_use_of_a_row_has_another_sample_of_its_latents(shuffle_shards: int) -> None:
    """Mean and deviation are told apart by their values: p and p / 2."""

    def moments(image_B3HW: Tensor) -> Tensor:
        mean_B3HW = encode(image_B3HW)
        return torch.cat([mean_B3HW, mean_B3HW / 2], dim=1)

    def batches() -> PairBatches:
        rows = stream(pairs, shuffle_shards)
        return PairBatches(rows, moments, CPU, seed=5, mirror=True, posterior="sample")

    batch = batches().take(20)
    for place, row in enumerate(stream(pairs, shuffle_shards).take(20)):
        name = f"shard {row.shard} row {row.index}"
        noise = normal(5, name, row.position, "hq posterior", (3, 4, 4))
        mean = encode(batch.hq_B3HW[place : place + 1])[0].numpy()
        expected = mean + mean / 2 * noise
        np.testing.assert_allclose(batch.hq_latent_BCHW[place], expected, atol=2e-3)  # float16
    assert not torch.equal(batch.hq_latent_BCHW, batch.lq_latent_BCHW)
    resumed = batches()
    resumed.seek(15)
    assert torch.equal(resumed.take(5).lq_latent_BCHW, batch.lq_latent_BCHW[15:])


def _images(plain: Batch, mirrored: Batch) -> Sequence[tuple[Tensor, Tensor]]:
    return [
        (plain.hq_B3HW, mirrored.hq_B3HW),
        (plain.lq_latent_BCHW, mirrored.lq_latent_BCHW),
        (plain.hq_latent_BCHW, mirrored.hq_latent_BCHW),
    ]


def test_a_resumed_stream_mirrors_the_same_rows() -> None:
    whole, resumed = pair_batches(mirror=True), pair_batches(mirror=True)
    whole.take(9)
    resumed.seek(9)
    for one, other in zip(whole.take(12), resumed.take(12), strict=True):
        assert one is None or torch.equal(one, other)


def test_a_small_table_is_encoded_once() -> None:
    sizes: list[int] = []

    def counted(image_B3HW: Tensor) -> Tensor:
        sizes.append(len(image_B3HW))
        return encode(image_B3HW)

    batches = PairBatches(stream(pairs), counted, CPU, seed=5, mirror=False)
    for _ in range(10):
        batches.take(7)
    assert sorted(sizes) == [3, 3, 4, 4]  # HQ and LQ of each shard: two small parts
