import tempfile
from pathlib import Path

import pytest

from components import files


def test_a_linked_file_takes_no_room_and_replaces_what_was_there(tmp_path: Path) -> None:
    file, target = tmp_path / "weights", tmp_path / "below" / "weights"
    file.write_bytes(b"new")
    files.link(file, target)
    assert target.samefile(file)
    files.link(file, target)  # again, as after a lost answer
    other = tmp_path / "other"
    other.write_bytes(b"newer")
    files.link(other, target)
    assert target.samefile(other)
    assert file.read_bytes() == b"new"
    assert [entry.name for entry in target.parent.iterdir()] == ["weights"]


def test_what_a_symbolic_link_leads_to_is_linked(tmp_path: Path) -> None:
    """As DVC makes them to a cache on another disk, and the hub's cache to its blobs."""
    (tmp_path / "blob").write_bytes(b"weights")
    (tmp_path / "weights").symlink_to("blob")
    files.link(tmp_path / "weights", tmp_path / "below" / "weights")
    (tmp_path / "weights").unlink()
    (tmp_path / "blob").unlink()
    assert (tmp_path / "below" / "weights").read_bytes() == b"weights"


def test_on_another_file_system_a_linked_file_is_a_copy(tmp_path: Path) -> None:
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs /dev/shm as a file system of its own")
    file = tmp_path / "weights"
    file.write_bytes(b"weights")
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        files.link(file, Path(folder) / "weights")
        assert (Path(folder) / "weights").read_bytes() == b"weights"
        assert [entry.name for entry in Path(folder).iterdir()] == ["weights"]


def test_the_longest_name_is_written_and_a_failure_says_what_went_wrong(tmp_path: Path) -> None:
    file = tmp_path / "below" / ("x" * 255)
    files.write_bytes(file, b"1")
    files.copy(file, tmp_path / ("y" * 255))
    assert (tmp_path / ("y" * 255)).read_bytes() == b"1"
    with pytest.raises(OSError, match="File name too long"):
        files.write_bytes(tmp_path / ("x" * 256), b"1")
    with pytest.raises(FileExistsError):
        files.write_bytes(file / "below a file", b"1")
    assert {entry.name[0] for entry in tmp_path.iterdir()} == {"b", "y"}
