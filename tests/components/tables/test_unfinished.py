import json
import multiprocessing
import os
import signal
from multiprocessing.connection import Connection
from pathlib import Path

import pyarrow as pa
import pytest

from components.tables import unfinished
from components.tables.shards import Made
from components.tables.unfinished import LockedError, Unfinished


def made(*face_ids: str) -> Made:
    return Made(pa.table({"face_id": list(face_ids)}))


def hold_the_lock(out: Path, told: Connection) -> None:
    with unfinished.lock(out):
        told.send(os.getpid())
        signal.pause()


def test_a_second_writer_is_refused_with_the_name_of_the_first(tmp_path):
    out = tmp_path / "faces"
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    holder = context.Process(target=hold_the_lock, args=(out, sender))
    holder.start()
    pid = receiver.recv()

    with (
        pytest.raises(LockedError, match=rf"faces is being written by process {pid} on .* 'kill"),
        unfinished.lock(out),
    ):
        pass

    os.kill(pid, signal.SIGKILL)  # the kernel gives the lock back
    holder.join()
    with unfinished.lock(out):
        owner = json.loads((tmp_path / "faces.partial.lock").read_text())
    assert owner["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_is_released_when_the_work_fails(tmp_path):
    out = tmp_path / "faces"
    with pytest.raises(ZeroDivisionError), unfinished.lock(out):
        _ = 1 / 0
    with unfinished.lock(out):
        pass


def test_a_shard_counts_as_soon_as_its_note_is_written(tmp_path):
    partial = Unfinished.resume(tmp_path / "faces", "1a2b", 2)
    note = partial.keep(0, made("a", "b"))

    assert Unfinished.resume(tmp_path / "faces", "1a2b", 2).note(0) == note
    assert partial.note(1) is None

    partial.notes.delete("shard-00000.parquet.json")  # killed between shard and note
    assert partial.note(0) is None


def test_a_truncated_shard_is_made_again(tmp_path):
    partial = Unfinished.resume(tmp_path / "faces", "1a2b", 1)
    note = partial.keep(0, made("a", "b"))
    os.truncate(partial.folder / "table" / note.shard.file, note.shard.bytes - 1)

    assert partial.note(0) is None


def test_tries_are_counted_per_run(tmp_path):
    partial = Unfinished.resume(tmp_path / "faces", "1a2b", 2)
    assert [partial.count_try(0), partial.count_try(0), partial.count_try(1)] == [1, 2, 1]
    assert Unfinished.resume(tmp_path / "faces", "1a2b", 2).count_try(0) == 1


@pytest.mark.parametrize("other", [("9c0d", 1), ("1a2b", 2)])
def test_shards_of_another_fingerprint_are_discarded_and_its_workers_write_nowhere(tmp_path, other):
    out = tmp_path / "faces"
    old = Unfinished.resume(out, "1a2b", 1)
    old.keep(0, made("a"))
    (old.folder / "open" / "half").write_bytes(b"half a shard")

    new = Unfinished.resume(out, *other)

    assert list((tmp_path / "faces.partial").iterdir()) == [new.folder]
    assert new.note(0) is None
    with pytest.raises(FileNotFoundError):
        old.keep(0, made("a"))
    assert not new.table.sizes()
    assert not new.notes.sizes()


def test_finishing_replaces_an_older_table_and_leaves_nothing_beside_it(tmp_path):
    out = tmp_path / "faces"
    out.mkdir()
    (out / "old.parquet").write_bytes(b"old")
    partial = Unfinished.resume(out, "1a2b", 1)
    partial.keep(0, made("a"))

    partial.finish(out, "manifest.json", b"{}")

    assert list(tmp_path.iterdir()) == [out]
    assert {file.name for file in out.iterdir()} == {"manifest.json", "shard-00000.parquet"}
    with pytest.raises(FileNotFoundError):  # a worker that outlived a killed run
        partial.keep(0, made("a"))
    assert {file.name for file in out.iterdir()} == {"manifest.json", "shard-00000.parquet"}


def test_a_discard_that_was_interrupted_is_finished_later(tmp_path):
    out = tmp_path / "faces"
    left = tmp_path / "faces.partial" / "1a2b-1.discarded-3c4d" / "table"
    left.mkdir(parents=True)
    (left / "shard-00000.parquet").write_bytes(b"old")

    unfinished.discard(out)

    assert list(tmp_path.iterdir()) == []
