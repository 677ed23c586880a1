"""The stage `intermediates`: what a backbone is conditioned on, face by face."""

from pathlib import Path
from typing import Any

import pytest
import torch

from components import images
from components.params import Compute
from components.restorers.catalogue import adopt
from components.restorers.folder import load_restorer
from components.tables import Table
from components.weights.shared import share
from pipelines import intermediates
from pipelines.intermediates import IntermediateMaker, IntermediatesParams
from tests.first_restorers import write_results
from tests.small_networks import SIZE, trained
from tests.small_tables import smooth_pairs, write_pairs

SPLITS = ("train", "test", "train", "train")


def rows_of(pairs: Table, model: Path, batch_size: int) -> list[dict[str, Any]]:
    """Make every shard in this process, and give all rows."""
    maker = IntermediateMaker(pairs=pairs, model=share(model), batch_size=batch_size)
    return [row for shard in range(len(pairs.shards)) for row in maker(shard).rows.to_pylist()]


def test_each_train_face_is_restored_as_the_model_restores_it_live(
    tmp_path: Path, networks: Path
) -> None:
    model = trained(tmp_path, networks, "qwen", "text")
    rows = smooth_pairs(SPLITS, SIZE)
    made = rows_of(write_pairs(tmp_path / "pairs", [rows]), model, batch_size=3)
    training = [row for row in rows if row["split"] == "train"]
    ids = [row["face_id"] for row in training]
    assert [row["face_id"] for row in made] == ids
    lq_B3HW = images.to_tensor([images.decode_png(row["lq_png"]) for row in training])
    live = load_restorer(model).restore(lq_B3HW, ids, [0, 0, 0]).restored_B3HW
    cached = images.to_tensor([images.decode_png(row["sr_png"]) for row in made])
    assert torch.equal(cached, live)


def test_a_face_does_not_depend_on_its_shard_or_its_place_in_it(
    tmp_path: Path, networks: Path
) -> None:
    model = trained(tmp_path, networks, "qwen", "text")  # which draws noise for every face
    rows = smooth_pairs(SPLITS, SIZE)
    one = rows_of(write_pairs(tmp_path / "one", [rows]), model, batch_size=1)
    other = rows_of(write_pairs(tmp_path / "other", [rows[3:], rows[2::-1]]), model, batch_size=1)
    assert {row["face_id"]: row["sr_png"] for row in other} == {
        row["face_id"]: row["sr_png"] for row in one
    }
    assert [row["face_id"] for row in other] != [row["face_id"] for row in one]


def test_results_of_another_program_must_be_there_for_every_face(tmp_path: Path) -> None:
    rows = smooth_pairs(SPLITS, SIZE)
    pairs = write_pairs(tmp_path / "pairs", [rows])
    expected = write_results(tmp_path / "pictures", [f"face {number}" for number in (0, 2, 3)])
    adopt(f"folder:{tmp_path / 'pictures'}", tmp_path / "results")
    made = rows_of(pairs, tmp_path / "results", batch_size=2)
    assert torch.equal(
        images.to_tensor([images.decode_png(row["sr_png"]) for row in made]), expected
    )
    params = IntermediatesParams(
        pairs=tmp_path / "pairs",
        model=tmp_path / "results",
        intermediates=tmp_path / "intermediates",
        batch_size=2,
    )
    with pytest.raises(ValueError, match=r"lacks results of 1 of 4 faces: face 1\.png: restore"):
        intermediates.run(params, Compute(workers=1), "sd21")  # the test face, scored later
    assert not params.intermediates.exists()


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_the_table_is_made_once_for_the_same_pairs_model_and_parameters(
    tmp_path: Path, networks: Path
) -> None:
    rows = smooth_pairs(SPLITS, SIZE)
    write_pairs(tmp_path / "pairs", [rows[:2], rows[2:]])
    params = IntermediatesParams(
        pairs=tmp_path / "pairs",
        model=trained(tmp_path, networks, "qwen", "text"),
        intermediates=tmp_path / "intermediates",
        batch_size=2,
    )
    table = intermediates.run(params, Compute(workers=1), "sd21")
    assert (table.stage, len(table.shards), table.num_rows) == ("intermediates@sd21", 2, 3)
    stamp = (table.path / "manifest.json").stat().st_mtime_ns
    again = intermediates.run(params, Compute(workers=2), "sd21")
    assert again.fingerprint == table.fingerprint
    assert (table.path / "manifest.json").stat().st_mtime_ns == stamp  # nothing ran


def test_what_is_missing_is_named_with_what_to_do(tmp_path: Path) -> None:
    params = IntermediatesParams(
        pairs=tmp_path / "pairs",
        model=tmp_path / "qwen-text",
        intermediates=tmp_path / "intermediates",
        batch_size=2,
    )
    with pytest.raises(FileNotFoundError, match=r"no table at .*pairs: run 'dvc repro'"):
        intermediates.run(params, Compute(), "sd21")
    write_pairs(params.pairs, [smooth_pairs(SPLITS, SIZE)])
    with pytest.raises(FileNotFoundError, match="qwen-text"):
        intermediates.run(params, Compute(), "sd21")
    assert not params.intermediates.exists()
