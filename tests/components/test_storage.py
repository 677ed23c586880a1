import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

from components import storage
from components.storage import ROOT_VARIABLE, Storage, data_root
from tests.faulty_proxy import FaultyProxy
from tests.servers import S3_SECRET, s3_environment, s3_server


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """Return the URL of an S3 server with the bucket `faces`."""
    with s3_server() as endpoint:
        yield endpoint


@pytest.fixture(params=["folder", "s3"])
def root(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Storage:
    if request.param == "folder":
        monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path / "root"))
    else:
        _reach(request.getfixturevalue("s3"), monkeypatch)
        monkeypatch.setenv(ROOT_VARIABLE, f"s3://faces/{tmp_path.name}")
    found = data_root()
    assert found is not None
    return found


def _reach(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:

    storage._s3.cache_clear()
    for name, value in s3_environment(endpoint).items():
        monkeypatch.setenv(name, value)


def test_files_come_back_as_they_were_written(root: Storage, tmp_path: Path) -> None:
    folder = pickle.loads(pickle.dumps(root)) / "tables" / "a"
    folder.write("x", b"first")
    folder.write("x", b"second")
    (tmp_path / "large").write_bytes(bytes(range(256)) * 50_000)
    folder.put(tmp_path / "large", "below/y")

    assert folder.read("x") == b"second"
    assert dict(folder.sizes()) == {"x": 6, "below/y": 12_800_000}
    assert folder.size("x") == 6
    assert folder.size("z") is None
    folder.get("below/y", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == (tmp_path / "large").read_bytes()


def test_a_deleted_file_is_gone_and_may_be_deleted_again(root: Storage) -> None:
    folder = root / "a"
    for name in ("x", "y", "below/z"):
        folder.write(name, b"-")
    (root / "ab").write("kept", b"-")
    for _ in range(2):
        folder.delete("x")
    assert set(folder.sizes()) == {"y", "below/z"}
    for _ in range(2):
        folder.delete_all()
    assert not folder.sizes()
    assert set((root / "ab").sizes()) == {"kept"}


def test_a_missing_file_is_named(root: Storage) -> None:
    with pytest.raises(FileNotFoundError, match="/a/nothing is not there"):
        (root / "a").read("nothing")


def test_a_write_that_fails_leaves_nothing(root: Storage, tmp_path: Path) -> None:
    (root / "a").write("x", b"old")
    with pytest.raises(OSError, match="gone"):
        (root / "a").put(tmp_path / "gone", "x")
    assert (root / "a").read("x") == b"old"
    assert not [name for name in root.sizes() if "tmp" in name]


def test_a_file_that_cannot_be_read_completely_leaves_nothing(
    root: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "_ROUNDS", 1)
    with pytest.raises(OSError, match="Input/output error"):
        (root / "a").put(Path("/proc/self/mem"), "x")
    assert not root.sizes()


def test_the_deleted_folder_of_an_output_is_not_made_again(tmp_path: Path) -> None:
    from components.storage import local_folder

    with pytest.raises(OSError, match="table/x"):
        local_folder(tmp_path / "table", tmp_path / "open").write("x", b"late")
    assert not list(tmp_path.iterdir())


def test_busy_s3_and_broken_connections_change_nothing(
    s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = FaultyProxy(s3)
    with proxy.serve() as endpoint:
        _reach(endpoint, monkeypatch)
        folder = Storage("s3://faces/faulty")
        for index in range(12):
            data = bytes([index]) * (12_000_000 if index % 6 == 0 else 40_000)
            folder.write(f"{index}", data)
            assert folder.read(f"{index}") == data
            end = folder.read_parts(
                f"{index}", lambda opened: (opened.seek(39_990), opened.read())[1]
            )
            assert end == data[39_990:]
        assert len(folder.sizes()) == 12
    assert proxy.faults["busy"] >= 3
    assert proxy.faults["cut"] >= 3


def test_a_bucket_that_is_not_there_is_refused_at_once(
    s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _reach(s3, monkeypatch)
    with pytest.raises(OSError, match="s3://no-such-bucket/a/x") as caught:
        Storage("s3://no-such-bucket/a").write("x", b"-")
    assert S3_SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3://key:secret@faces/root", "only s3://BUCKET/PREFIX"),
        ("s3://faces/root?access_key=secret", "only s3://BUCKET/PREFIX"),
        ("s3:///root", "names no bucket"),
        ("data", "absolute path"),
        ("https://key:secret@faces", "absolute path"),
    ],
)
def test_an_invalid_root_is_refused_and_its_credentials_are_not_repeated(
    url: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ROOT_VARIABLE, url)
    with pytest.raises(ValueError, match=said) as caught:
        data_root()
    assert "secret" not in str(caught.value)
