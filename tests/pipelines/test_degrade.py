from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from components import images
from components.degradation import recipe
from components.degradation.recipe import DegradationParams
from components.params import Compute
from components.tables import Table
from components.tables.making import ShardError
from pipelines import degrade, faces
from pipelines.degrade import DegradeParams, PairMaker

RECIPE = DegradationParams(
    kernel_size=13, sigma=(0.1, 3), downsample=(0.8, 4), noise=(0, 20), jpeg_quality=(60, 100)
)
NUM_PICTURES = 10
TEST_FILES = ("p2.png", "p7.png")
COLUMNS = ["sigma_x", "sigma_y", "angle", "scale", "noise_sigma", "jpeg_quality"]

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


def drawn_face(number: int) -> images.Image:
    rng = np.random.default_rng(number)
    coarse = rng.integers(0, 256, (6, 6, 3), np.uint8)
    picture = cv2.resize(coarse, (64, 64), interpolation=cv2.INTER_CUBIC)
    return np.asarray(picture, dtype=np.uint8)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    names = [f"p{number}.png" for number in range(NUM_PICTURES)]
    for number, name in enumerate(names):
        (folder / name).write_bytes(images.encode_png(drawn_face(number)))
    (folder / "p3.png").write_bytes(b"no picture")  # its shard has one face less
    rows = [f"{name},{'test' if name in TEST_FILES else 'train'}" for name in names]
    (folder / "split.csv").write_text("\n".join(["file,split", *rows]))
    return folder


def table_of_faces(source: Path, out: Path, files_per_shard: int) -> Path:
    params = faces.FacesParams(
        source=str(source),
        faces=out,
        aligned=True,
        detector=None,
        size=64,
        min_face=32,
        test_percent=0,
        files_per_shard=files_per_shard,
    )
    return faces.run(params, Compute(workers=1)).path


@pytest.fixture(scope="module")
def face_table(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return table_of_faces(source, tmp_path_factory.mktemp("faces") / "faces", 3)


def params_for(face_table: Path, pairs: Path, **values: Any) -> DegradeParams:
    defaults = {"seed": 42, "variants": 3, "test_variants": 1, "recipe": RECIPE}
    return DegradeParams(faces=face_table, pairs=pairs, **(defaults | values))


def shards_made(params: DegradeParams) -> list[dict[str, Any]]:
    """Make all rows in this process."""
    maker = PairMaker(faces=Table.open(params.faces), params=params)
    shards = range(len(Table.open(params.faces).shards))
    return [row for shard in shards for row in maker(shard).rows.to_pylist()]


def test_one_worker_and_two_write_the_same_bytes(face_table: Path, tmp_path: Path) -> None:
    written = []
    for workers in (1, 2):
        params = params_for(face_table, tmp_path / str(workers) / "pairs")
        table = degrade.run(params, Compute(workers=workers))
        table.verify()
        written.append({file.name: file.read_bytes() for file in table.path.glob("*.parquet")})
    assert written[0] == written[1]
    assert len(written[0]) == 4
    # and what a worker wrote is what this process makes
    assert table.read().to_pylist() == shards_made(params)


def test_every_face_has_its_variants_in_order(face_table: Path, tmp_path: Path) -> None:
    rows = shards_made(params_for(face_table, tmp_path, test_variants=2))
    keys = [(row["face_id"], row["variant"]) for row in rows]
    assert keys == sorted(keys)
    assert len(keys) == len(set(keys)) == 7 * 3 + 2 * 2  # nine of ten pictures are faces
    assert {row["face_id"] for row in rows if row["split"] == "test"} == set(TEST_FILES)
    assert "p3.png" not in {face_id for face_id, _ in keys}


def test_a_pair_is_the_face_and_its_recorded_degradation(face_table: Path, tmp_path: Path) -> None:
    rows = shards_made(params_for(face_table, tmp_path))
    for row in rows[:6]:
        hq = images.decode_png(row["hq_png"])
        np.testing.assert_array_equal(hq, drawn_face(int(row["face_id"][1])))
        drawn = recipe.draw(
            RECIPE, (64, 64), seed=42, face_id=row["face_id"], variant=row["variant"]
        )
        assert {name: row[name] for name in COLUMNS} == drawn.record()
        np.testing.assert_array_equal(images.decode_png(row["lq_png"]), recipe.apply(hq, drawn))
    assert len({row["lq_png"] for row in rows}) == len(rows)


def test_another_cut_into_shards_gives_the_same_pairs(
    source: Path, face_table: Path, tmp_path: Path
) -> None:
    other = table_of_faces(source, tmp_path / "faces", 4)
    assert len(Table.open(other).shards) != len(Table.open(face_table).shards)
    first, second = (shards_made(params_for(table, tmp_path)) for table in (face_table, other))
    assert first == second


def test_another_seed_gives_other_degradations_of_the_same_faces(
    face_table: Path, tmp_path: Path
) -> None:
    first, second = (shards_made(params_for(face_table, tmp_path, seed=seed)) for seed in (1, 2))
    for ours, theirs in zip(first, second, strict=True):
        assert ours["hq_png"] == theirs["hq_png"]
        assert ours["scale"] != theirs["scale"]


def test_more_variants_leave_the_first_ones_as_they_were(face_table: Path, tmp_path: Path) -> None:
    few, more = (shards_made(params_for(face_table, tmp_path, variants=n)) for n in (1, 2))
    assert few == [row for row in more if row["variant"] == 0]


def test_options_that_change_the_target_are_in_the_table(face_table: Path, tmp_path: Path) -> None:
    grey = RECIPE.model_copy(update={"grey_probability": 1.0, "grey_target": True})
    for row in shards_made(params_for(face_table, tmp_path, recipe=grey)):
        for name in ("hq_png", "lq_png"):
            picture = images.decode_png(row[name])
            np.testing.assert_array_equal(picture, np.repeat(picture[..., :1], 3, axis=2))


def test_a_recipe_that_leaves_no_pixel_stops_the_stage(face_table: Path, tmp_path: Path) -> None:
    tiny = RECIPE.model_copy(update={"downsample": (90.0, 100.0)})
    params = params_for(face_table, tmp_path / "pairs", recipe=tiny)
    with pytest.raises(ShardError, match="lower the upper end of 'downsample'"):
        degrade.run(params, Compute(workers=1))
    assert not params.pairs.exists()


def test_missing_faces_say_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="dvc repro"):
        degrade.run(params_for(tmp_path / "faces", tmp_path / "pairs"), Compute(workers=1))
