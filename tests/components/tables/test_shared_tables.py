"""Tables in a data root, on a real Ray: the manifest stays with the stage, the shards do not."""

from pathlib import Path

import pytest

from components.cluster import capacity, nodes
from components.params import Compute
from components.storage import ROOT_VARIABLE, data_root
from components.tables import Table
from components.tables.unfinished import Unfinished
from tests.components.tables import slow_stage
from tests.components.tables.slow_stage import NUM_SHARDS, SlowMaker

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


@pytest.fixture(scope="module", autouse=True)
def _maker_travels_by_value():
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(slow_stage)
    yield
    cloudpickle.unregister_pickle_by_value(slow_stage)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path / "root"))
    return tmp_path / "root"


def files(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def test_a_table_is_the_same_bytes_with_and_without_a_root(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = slow_stage.build(tmp_path / "shared", SlowMaker(0.0))
    place = root / "tables" / shared.fingerprint
    monkeypatch.delenv(ROOT_VARIABLE)
    alone = slow_stage.build(tmp_path / "alone", SlowMaker(0.0))

    assert files(tmp_path / "shared").keys() == {"manifest.json"}
    assert files(place) == files(tmp_path / "alone")
    assert files(root).keys() == {f"tables/{shared.fingerprint}/{name}" for name in files(place)}
    assert shared.read().equals(alone.read())

    with pytest.raises(FileNotFoundError, match="holds only a manifest: set HDRFACE_ROOT"):
        Table.open(tmp_path / "shared")


def test_a_table_in_the_root_is_not_made_again(root: Path, tmp_path: Path) -> None:
    first = slow_stage.build(tmp_path / "first", SlowMaker(0.0))
    before = files(root)
    second = slow_stage.build(tmp_path / "second", SlowMaker(0.0, fails_at=0))
    assert second.fingerprint == first.fingerprint
    assert files(tmp_path / "second") == files(tmp_path / "first")
    assert files(root) == before


def test_shards_of_another_run_are_not_made_again(root: Path, tmp_path: Path) -> None:
    whole = slow_stage.build(tmp_path / "whole", SlowMaker(0.0))
    place = data_root() / "tables" / whole.fingerprint
    place.delete("manifest.json")
    place.delete("shard-00002.parquet")
    # A note says that a shard is complete: another run wrote those of all but one.
    other = Unfinished.resume(tmp_path / "x", whole.fingerprint, NUM_SHARDS, data_root())
    for index in (0, 1, 3, 4, 5, 6, 7):
        other.keep(index, SlowMaker(0.0)(index))

    again = slow_stage.build(tmp_path / "again", SlowMaker(0.0, fails_at=0))
    again.verify()
    assert files(tmp_path / "again") == files(tmp_path / "whole")
    assert not list((root / "tables").glob("*.partial"))


def test_a_table_made_without_a_root_is_copied_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = slow_stage.build(tmp_path / "alone", SlowMaker(0.0))
    assert alone.shared() == alone
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path / "root"))
    shared = Table.open(tmp_path / "alone").shared()
    assert shared.place.url == f"{tmp_path}/root/tables/{alone.fingerprint}"
    assert shared.read().equals(alone.read())
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path))  # a root that holds the table as it is
    assert Table.open(tmp_path / "alone").shared().place.url == f"{tmp_path}/alone"


@pytest.mark.usefixtures("root")
def test_a_node_without_the_root_or_with_other_versions_is_named() -> None:
    good = {"problem": "", **nodes.versions()}
    nodes._check_answer("node 10.0.0.7", good, data_root())
    with pytest.raises(ValueError, match=r"node 10.0.0.7 does not see HDRFACE_ROOT = /.*/root"):
        nodes._check_answer("node 10.0.0.7", {**good, "problem": "not there"}, data_root())
    with pytest.raises(ValueError, match=r"node 10.0.0.7 does not see /.*: set HDRFACE_ROOT to"):
        nodes._check_answer("node 10.0.0.7", {**good, "problem": "not there"}, None)
    with pytest.raises(ValueError, match=r"node 10.0.0.7 has torch 1.0, here it is"):
        nodes._check_answer("node 10.0.0.7", {**good, "torch": "1.0"}, None)


@pytest.mark.parametrize("compute", [Compute(gpus=1), Compute(memory=100_000)])
def test_a_need_that_no_node_can_meet_is_refused_at_once(compute: Compute) -> None:
    with pytest.raises(ValueError, match=r"a worker needs 1 CPUs, .* no node with that"):
        capacity.wait(compute)
