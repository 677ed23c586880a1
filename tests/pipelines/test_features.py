"""The stage `features`: what the frozen networks say, the same as on the live path."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from components import images
from components.backbones.backbone import sampled
from components.params import Compute
from components.restorers.folder import load_restorer
from components.restorers.hdrface import as_cached
from components.tables import Table
from components.weights.shared import share
from pipelines import features
from pipelines.features import FeatureMaker, FeaturesParams
from pipelines.intermediates import IntermediateMaker
from tests.small_networks import SIZE, trained
from tests.small_tables import smooth_pairs, write_pairs, write_table

SPLITS = (("train", "test", "train"), ("test",))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, networks: Path) -> Path:
    """Return a folder with `sd21-sdfm` and the `qwen-text` that it stands on."""
    root = tmp_path_factory.mktemp("models")
    trained(root, networks, "sd21", "sdfm")
    return root


@pytest.fixture
def params(tmp_path: Path, models: Path, networks: Path) -> FeaturesParams:
    """Return parameters whose pairs and intermediates are there."""
    pairs = write_pairs(tmp_path / "pairs", [smooth_pairs(splits, SIZE) for splits in SPLITS])
    restore = IntermediateMaker(pairs=pairs, model=share(models / "qwen-text"), batch_size=16)
    made = [restore(shard).rows for shard in range(len(SPLITS))]
    write_table(tmp_path / "intermediates", made, stage="intermediates@sd21")
    return FeaturesParams(
        pairs=pairs.path,
        intermediates=tmp_path / "intermediates",
        weights=networks / "sd21",
        encoder=networks / "dinov3",
        features=tmp_path / "features",
        encoder_size=32,
        mirror=False,
        batch_size=16,
    )


def maker(params: FeaturesParams) -> FeatureMaker:
    return FeatureMaker(
        pairs=Table.open(params.pairs),
        intermediates=Table.open(params.intermediates),
        weights=share(params.weights),
        encoder=share(params.encoder),
        params=params,
        backbone="sd21",
        size=SIZE,
    )


def tensor(rows: pa.Table, column: str) -> Tensor:
    values = rows[column].combine_chunks()
    array = values.storage.flatten().to_numpy().reshape(len(rows), *values.type.shape)
    return torch.from_numpy(np.array(array)).float()


def test_a_shards_features_give_what_the_live_path_restores(
    params: FeaturesParams, models: Path
) -> None:
    rows = maker(params)(0).rows
    restorer = load_restorer(models / "sd21-sdfm")
    pairs = Table.open(params.pairs).read(where=("split", "train")).to_pylist()
    lq_B3HW = images.to_tensor([images.decode_png(pair["lq_png"]) for pair in pairs])
    ids = [pair["face_id"] for pair in pairs]
    assert rows["face_id"].to_pylist() == ids

    hq_B3HW = images.to_tensor([images.decode_png(pair["hq_png"]) for pair in pairs])
    live = restorer.restore(lq_B3HW, ids, [0, 0])
    assert restorer.encoder is not None
    assert live.intermediate_B3HW is not None
    with torch.no_grad():
        tokens = restorer.encoder(torch.cat([live.intermediate_B3HW, lq_B3HW]))
    for column, expected in {
        "sr_tokens": as_cached(tokens[:2]),
        "lq_tokens": as_cached(tokens[2:]),
        "lq_latent": as_cached(restorer.backbone.encode(lq_B3HW)),
        "hq_latent": as_cached(restorer.backbone.encode(hq_B3HW)),
    }.items():
        assert torch.equal(tensor(rows, column), expected), column

    with torch.no_grad():
        latent_BCHW, _ = restorer.predict(
            tensor(rows, "lq_latent"), None, (tensor(rows, "sr_tokens"), tensor(rows, "lq_tokens"))
        )
        cached = restorer.backbone.decode(latent_BCHW).clamp(0, 1)
    assert float((cached - live.restored_B3HW).abs().max()) <= 0.5 / 255 + 1e-3


def test_samples_of_the_posterior_are_those_of_the_live_path(
    params: FeaturesParams, models: Path
) -> None:
    samples = params.model_copy(update={"posterior": "sample", "mirror": True})
    rows = maker(samples)(0).rows
    backbone = load_restorer(models / "sd21-sdfm").backbone
    pairs = Table.open(params.pairs).read(where=("split", "train")).to_pylist()
    for role in ("lq", "hq"):
        faces = [images.decode_png(pair[f"{role}_png"]) for pair in pairs]
        both = [side for face in faces for side in (face, images.mirror(face))]
        keys = [
            (42, pair["face_id"], pair["variant"], purpose)
            for pair in pairs
            for purpose in (f"{role} posterior", f"{role} posterior mirrored")
        ]
        expected = as_cached(sampled(backbone.moments(images.to_tensor(both)), keys))
        torch.testing.assert_close(tensor(rows, f"{role}_latent"), expected, atol=2e-3, rtol=2e-3)
    with pytest.raises(ValueError, match="qwen takes posterior means only"):
        features.run(samples, Compute(), "qwen")


def test_every_row_is_followed_by_its_mirror_image(params: FeaturesParams) -> None:
    plain = maker(params)(0).rows
    both = maker(params.model_copy(update={"mirror": True}))(0).rows
    assert both["mirrored"].to_pylist() == [False, True, False, True]
    assert both["face_id"].to_pylist()[::2] == plain["face_id"].to_pylist()
    assert both["face_id"].to_pylist()[1::2] == plain["face_id"].to_pylist()
    torch.testing.assert_close(
        tensor(both, "lq_tokens")[::2], tensor(plain, "lq_tokens"), atol=2e-3, rtol=0
    )


def test_tokens_in_8_bits_are_those_in_float16_within_half_a_scale(params: FeaturesParams) -> None:
    wide = maker(params)(0).rows
    narrow = maker(params.model_copy(update={"tokens": "int8"}))(0).rows
    for column, scales in (("lq_tokens", "lq_scales"), ("sr_tokens", "sr_scales")):
        # As docs/stages.md says that they are read.
        scale_BNK = tensor(narrow, scales).numpy()
        numbers = [np.frombuffer(row, np.int8) for row in narrow[column].to_pylist()]
        blocks_BNKG = np.stack(numbers).reshape(*scale_BNK.shape, 32) * scale_BNK[..., None]
        off = np.abs(blocks_BNKG - tensor(wide, column).numpy().reshape(blocks_BNKG.shape))
        assert (off <= scale_BNK[..., None] / 2).all()
        assert off.max() > 0
    others = [name for name in wide.column_names if not name.endswith("tokens")]
    assert narrow.select(others).equals(wide.select(others))


def test_the_default_is_float16_and_another_form_is_refused(params: FeaturesParams) -> None:
    values = params.model_dump()
    del values["tokens"]
    assert FeaturesParams.model_validate(values).tokens == "float16"
    file = {"features": {"sd21": {**values, "tokens": "int4"}}}
    with pytest.raises(ValueError, match=r"features.sd21.tokens = 'int4': .*'float16' or 'int8'"):
        FeaturesParams.parse("features.sd21", file)


@pytest.mark.parametrize("tokens", ["float16", "int8"])
def test_a_shard_without_train_faces_has_the_same_columns_and_no_rows(
    params: FeaturesParams, tokens: str
) -> None:
    make = maker(params.model_copy(update={"tokens": tokens}))
    empty = make(1).rows
    assert empty.num_rows == 0
    assert empty.schema == make(0).rows.schema


def test_intermediates_of_other_faces_are_refused(params: FeaturesParams, tmp_path: Path) -> None:
    rows = Table.open(params.intermediates)
    other = [rows.read_shard(0).slice(1), rows.read_shard(1)]
    write_table(tmp_path / "other", other, stage="intermediates@sd21")
    make = maker(params.model_copy(update={"intermediates": tmp_path / "other"}))
    with pytest.raises(ValueError, match=r"shard 0: .* differ in face_id: run 'dvc repro inter"):
        make(0)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_the_table_is_made_once_for_the_same_inputs_and_parameters(params: FeaturesParams) -> None:
    num_threads = torch.get_num_threads()
    table = features.run(params, Compute(workers=1), "sd21")
    assert (table.stage, len(table.shards), table.num_rows) == ("features@sd21", 2, 2)
    torch.set_num_threads(1)  # as the worker: with more, sums have other last bits
    try:
        assert table.read_shard(0).equals(maker(params)(0).rows)
    finally:
        torch.set_num_threads(num_threads)
    stamp = (table.path / "manifest.json").stat().st_mtime_ns
    again = features.run(params, Compute(workers=2), "sd21")
    assert again.fingerprint == table.fingerprint
    assert (table.path / "manifest.json").stat().st_mtime_ns == stamp  # nothing ran


def test_what_is_missing_is_named_with_what_to_do(params: FeaturesParams, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    for name in ("pairs", "intermediates"):
        with pytest.raises(FileNotFoundError, match=r"no table at .*gone: run 'dvc repro'"):
            features.run(params.model_copy(update={name: gone}), Compute(), "sd21")
    for name in ("weights", "encoder"):
        with pytest.raises(FileNotFoundError, match="gone"):
            features.run(params.model_copy(update={name: gone}), Compute(), "sd21")
    assert not params.features.exists()
