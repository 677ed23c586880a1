"""Tables, on a real Ray: what is written does not depend on who writes it, or how often."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from components import lineage, tables
from components.params import Compute
from components.tables import Made, Rejection, Table, building, shards
from components.tables.making import ShardError
from tests.components.tables import slow_stage
from tests.components.tables.slow_stage import NUM_SHARDS, SlowMaker, SlowParams

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


@pytest.fixture(scope="module", autouse=True)
def _maker_travels_by_value():
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(slow_stage)  # workers cannot import a test's module
    yield
    cloudpickle.unregister_pickle_by_value(slow_stage)


@pytest.fixture(scope="module")
def slow_table(tmp_path_factory) -> Table:
    """The table of an undisturbed run with two workers."""
    return slow_stage.build(tmp_path_factory.mktemp("undisturbed") / "slow", SlowMaker(0.0))


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def copy_of(table: Table, folder: Path) -> Path:
    copy = folder / "copy"
    copy.mkdir()
    for name, data in content(table.path).items():
        (copy / name).write_bytes(data)
    return copy


def shards_done(out: Path) -> int:
    return len(list(out.parent.glob(f"{out.name}.partial/*/notes/*.json")))


def wait_until(happened: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 60
    while not happened():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.02)


def test_rows_come_in_the_order_of_the_work_and_rejections_are_kept(slow_table):
    expected = [f"face-{item}-{row}" for item in range(NUM_SHARDS) if item != 5 for row in range(3)]

    assert slow_table.read(["face_id"])["face_id"].to_pylist() == expected
    assert slow_table.num_rows == len(expected)
    assert [shard.rows for shard in slow_table.shards] == [3, 3, 3, 3, 3, 0, 3, 3]
    assert slow_table.rejected == [
        Rejection("face-0-x", "too small"),
        Rejection("face-3-x", "too small"),
        Rejection("face-5", "no face found"),
        Rejection("face-6-x", "too small"),
    ]


def test_the_manifest_says_what_the_table_was_made_from_and_names_no_place(slow_table):
    manifest = json.loads((slow_table.path / "manifest.json").read_text())

    assert manifest["stage"] == "slow"
    assert manifest["params"] == {"seed": 1}
    assert manifest["inputs"] == {"pictures": "1a2b"}
    assert "components/images.py" in manifest["sources"]
    assert all(name.startswith("components/image") for name in manifest["sources"])
    assert manifest["num_rejected"] == 4
    assert manifest["shards"][5]["file"] == "shard-00005.parquet"
    assert str(slow_table.path.parent) not in json.dumps(manifest)
    assert sorted(content(slow_table.path)) == sorted(
        ["manifest.json", *(shard["file"] for shard in manifest["shards"])]
    )


def test_a_finished_table_is_returned_as_it_is(slow_table):
    before = (slow_table.path / "shard-00000.parquet").stat().st_mtime_ns

    again = slow_stage.build(slow_table.path, SlowMaker(0.0, fails_at=0))

    assert again == slow_table
    assert (slow_table.path / "shard-00000.parquet").stat().st_mtime_ns == before


def test_after_a_killed_worker_its_shard_is_tried_again(slow_table, tmp_path):
    dies = SlowMaker(0.0, dies_at=3, died=tmp_path / "died")

    table = slow_stage.build(tmp_path / "slow", dies)

    assert dies.died.exists()
    assert content(table.path) == content(slow_table.path)


def test_an_error_of_a_maker_ends_the_stage_with_its_message(slow_table, tmp_path):
    out = copy_of(slow_table, tmp_path)

    with pytest.raises(ShardError, match="slow, shard 6: ValueError: item 6 cannot be") as failed:
        slow_stage.build(out, SlowMaker(0.0, fails_at=6), params=SlowParams(seed=2))

    assert 'raise ValueError(f"item {item} cannot be made")' in "".join(failed.value.__notes__)
    assert content(out) == content(slow_table.path)  # until the new table is whole
    assert 0 < shards_done(out) < NUM_SHARDS


def test_a_stage_killed_at_several_moments_ends_with_the_same_bytes(
    slow_table, tmp_path, ray_session
):
    out, log = tmp_path / "data" / "slow", tmp_path / "log"

    def start(seconds: float) -> subprocess.Popen[bytes]:
        command = [sys.executable, slow_stage.__file__, str(out), str(seconds), "2"]
        environment = os.environ | {"RAY_ADDRESS": ray_session, "PYTHONPATH": str(lineage.ROOT)}
        with log.open("wb") as stderr:
            return subprocess.Popen(command, env=environment, stderr=stderr)

    for kill_after in (0, 2, 5):
        stage = start(0.25)
        wait_until(lambda after=kill_after: shards_done(out) >= after, stage, log)
        stage.kill()
        stage.wait()
        assert not out.exists()

    assert start(0.0).wait() == 0, log.read_text()
    assert " shards are done, the rest follows" in log.read_text()
    assert content(out) == content(slow_table.path)
    assert list(out.parent.iterdir()) == [out]


def test_a_table_is_read_as_a_whole_by_shard_or_by_a_value_of_a_column(slow_table):
    assert slow_table.read_shard(5).num_rows == 0
    assert slow_table.read_shard(1, ["split"]).column_names == ["split"]
    train = slow_table.read(["face_id"], where=("split", "train"))
    assert train.column_names == ["face_id"]
    assert train.num_rows == 2 * (NUM_SHARDS - 1)
    assert slow_table.read(where=("split", "no such")).num_rows == 0


def test_ray_data_reads_the_tensors(slow_table):
    import ray

    files = [str(slow_table.path / shard.file) for shard in slow_table.shards]
    batches = ray.data.read_parquet(files).iter_batches(batch_size=None)
    rows = {
        face_id: tokens
        for batch in batches
        for face_id, tokens in zip(batch["face_id"], batch["tokens"], strict=True)
    }
    table = slow_table.read(["face_id", "tokens"])

    assert len(rows) == slow_table.num_rows
    for face_id, tokens in zip(
        table["face_id"].to_pylist(),
        table["tokens"].combine_chunks().to_numpy_ndarray(),
        strict=True,
    ):
        assert rows[face_id].dtype == np.float16
        assert (rows[face_id] == tokens).all()


def test_torch_uses_one_thread_per_requested_cpu(tmp_path):
    table = tables.build(
        tmp_path / "threads",
        stage="threads",
        params=SlowParams(),
        inputs={},
        module="components.images",
        work=[0],
        maker=slow_stage.ThreadCounter,
        maker_args={},
        compute=Compute(cpus=2),
    )

    assert table.read().to_pylist() == [{"torch": 2, "cv2": 2, "folder": str(Path.cwd())}]


def test_a_damaged_table_is_named_when_it_is_opened_or_verified(slow_table, tmp_path):
    copy = copy_of(slow_table, tmp_path)
    shard = copy / "shard-00002.parquet"
    data = shard.read_bytes()
    Table.open(copy).verify()

    shard.write_bytes(data[:-1])
    with pytest.raises(ValueError, match=r"00002.parquet has \d+ bytes, .* 'dvc repro slow'"):
        Table.open(copy)

    shard.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    with pytest.raises(ValueError, match=r"00002.parquet has SHA-256 .* 'dvc repro --force slow'"):
        Table.open(copy).verify()

    shard.unlink()
    with pytest.raises(FileNotFoundError, match=r"00002.parquet is missing .* 'dvc repro slow'"):
        Table.open(copy)


def test_a_damaged_table_is_made_again_and_another_number_of_workers_writes_the_same_bytes(
    slow_table, tmp_path
):
    copy = copy_of(slow_table, tmp_path)
    (copy / "shard-00002.parquet").unlink()

    slow_stage.build(copy, SlowMaker(0.0), workers=1)

    assert content(copy) == content(slow_table.path)


def test_the_error_for_a_missing_table_says_what_to_run(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no table at .*: run 'dvc repro'"):
        Table.open(tmp_path / "faces")


def test_a_folder_that_is_not_a_table_is_never_replaced(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")

    with pytest.raises(ValueError, match="exists and is not a table"):
        slow_stage.build(tmp_path, SlowMaker(0.0))

    assert (tmp_path / "thesis.tex").exists()


def test_no_work_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="has nothing to make"):
        tables.build(
            tmp_path / "faces",
            stage="faces",
            params=SlowParams(),
            inputs={},
            module="components.images",
            work=[],
            maker=SlowMaker,
            maker_args={},
            compute=Compute(workers=None),
        )


def test_shards_that_differ_in_their_columns_are_refused():
    notes = [
        shards.encode(f"{name}.parquet", Made(pa.table({"x": pa.array([1], column_type)})))[1]
        for name, column_type in [("first", pa.int32()), ("second", pa.int64())]
    ]

    with pytest.raises(ValueError, match=r"mixed: second.parquet has columns .*int64"):
        building._contents("mixed", notes)
