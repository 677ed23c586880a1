"""Hashes of large files are remembered, and never for bytes that may have changed."""

import hashlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from components import hashes

LARGE = 1 << 20


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the store of a machine that has hashed nothing yet."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HDRFACE_STORE", str(tmp_path / "store"))
    return tmp_path / "store"


def make(file: Path, size: int = LARGE, byte: bytes = b"a", age_s: float = 60) -> str:
    """Write a file that was last changed `age_s` seconds ago; return its hash."""
    file.write_bytes(byte * size)
    os.utime(file, (time.time() - age_s,) * 2)
    return hashlib.sha256(byte * size).hexdigest()


def test_a_large_file_is_read_once(tmp_path: Path, reads: list[str]) -> None:
    expected = make(tmp_path / "weights")
    assert hashes.sha256_of(tmp_path / "weights") == expected
    (tmp_path / "link").symlink_to(tmp_path / "weights")  # as of the hub's cache
    assert hashes.sha256_of(tmp_path / "weights") == expected
    assert hashes.sha256_of(tmp_path / "link") == expected
    assert reads == ["weights"]


def test_who_looks_for_damage_reads_every_byte(tmp_path: Path, reads: list[str]) -> None:
    expected = make(tmp_path / "weights")
    hashes.sha256_of(tmp_path / "weights")
    assert hashes.read_sha256(tmp_path / "weights") == expected
    assert reads == ["weights"] * 2


def _write_in_place_and_restore_the_time(file: Path) -> None:
    before = file.stat()
    with file.open("r+b") as opened:
        opened.write(b"b" * LARGE)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def _replace_by_one_of_the_same_size_and_time(file: Path) -> None:
    before = file.stat()
    make(file.with_name("other"), byte=b"b")
    os.utime(file.with_name("other"), ns=(before.st_atime_ns, before.st_mtime_ns))
    file.with_name("other").replace(file)


@pytest.mark.parametrize(
    "change",
    [
        lambda file: file.write_bytes(b"b" * LARGE),
        _write_in_place_and_restore_the_time,
        _replace_by_one_of_the_same_size_and_time,
    ],
)
def test_a_changed_file_is_read_again(tmp_path: Path, change: Callable[[Path], object]) -> None:
    make(tmp_path / "weights")
    hashes.sha256_of(tmp_path / "weights")
    change(tmp_path / "weights")
    assert hashes.sha256_of(tmp_path / "weights") == hashlib.sha256(b"b" * LARGE).hexdigest()


def test_a_file_that_was_just_written_is_not_remembered(tmp_path: Path, store: Path) -> None:
    """It may be written again within the tick of the clock that its time shows."""
    make(tmp_path / "weights", age_s=0)
    hashes.sha256_of(tmp_path / "weights")
    assert not store.exists()


def test_a_file_that_changes_while_it_is_read_is_not_remembered(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "weights")
    digest = hashlib.file_digest

    def interrupted(stream, kind):  # type: ignore[no-untyped-def]
        found = digest(stream, kind)
        make(tmp_path / "weights", byte=b"b")
        return found

    monkeypatch.setattr(hashlib, "file_digest", interrupted)
    hashes.sha256_of(tmp_path / "weights")
    assert not store.exists()


def test_a_small_file_has_no_entry(tmp_path: Path, store: Path) -> None:
    expected = make(tmp_path / "config.json", size=LARGE - 1)
    assert hashes.sha256_of(tmp_path / "config.json") == expected
    assert not store.exists()


@pytest.mark.parametrize(
    "content", [b"", b"\xff", b"[]", b"{}", b'{"sha256": 1}', b'{"path": 1, "state": 2']
)
def test_a_broken_entry_costs_only_time(
    tmp_path: Path, store: Path, reads: list[str], content: bytes
) -> None:
    expected = make(tmp_path / "weights")
    hashes.sha256_of(tmp_path / "weights")
    [entry] = (store / "hashes").iterdir()
    entry.write_bytes(content)
    assert [hashes.sha256_of(tmp_path / "weights") for _ in range(2)] == [expected] * 2
    assert reads == ["weights"] * 2


def test_without_a_place_to_write_the_hash_is_right_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reads: list[str]
) -> None:
    expected = make(tmp_path / "weights")
    (tmp_path / "home").write_bytes(b"a file, not a folder")
    monkeypatch.setenv("HDRFACE_STORE", str(tmp_path / "home" / "store"))
    assert [hashes.sha256_of(tmp_path / "weights") for _ in range(2)] == [expected] * 2
    assert reads == ["weights"] * 2


def test_a_store_that_cannot_be_written_leaves_the_home(
    tmp_path: Path, store: Path, reads: list[str]
) -> None:
    store.write_bytes(b"a file, not a folder")
    make(tmp_path / "weights")
    for _ in range(2):
        hashes.sha256_of(tmp_path / "weights")
    assert reads == ["weights"]
    assert list((tmp_path / "home" / ".cache" / "hdrface" / "hashes").iterdir())


def test_many_that_hash_at_once_find_the_same(tmp_path: Path) -> None:
    expected = {tmp_path / name: make(tmp_path / name, byte=name.encode()) for name in "abcd"}
    wrong: list[Path] = []

    def look() -> None:
        wrong.extend(file for file in expected if hashes.sha256_of(file) != expected[file])

    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        hashes.sha256_of(tmp_path / "weights")
