"""What is sent to a cluster, and the errors when there is none."""

import contextlib
import json
import os
import platform
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from zipfile import ZipFile

import pytest
import ray

from components.jobs import submission, working_tree


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in submission.ADDRESS_VARIABLES:
        monkeypatch.setenv(name, "")


def git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Make a checkout: files tracked, changed, deleted, new and ignored."""
    folder = tmp_path / "checkout"
    for name in ("kept.py", "changed.py", "deleted.py", "deep/run.sh", "data/face.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{name}\n")
    (folder / "deep/run.sh").chmod(0o755)
    (folder / ".gitignore").write_text("*.log\n")
    git(folder, "init", "--quiet")
    git(folder, "add", ".gitignore", "kept.py", "changed.py", "deleted.py", "deep")
    git(folder, "-c", "user.name=a", "-c", "user.email=b@c", "commit", "--quiet", "-m", "All")
    git(folder, "remote", "add", "origin", "https://me:secret@example.org/faces.git")
    (folder / "changed.py").write_text("changed\n")
    (folder / "deleted.py").unlink()
    (folder / "new.py").write_text("new\n")
    (folder / "a.log").write_text("log\n")
    return folder


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack as Ray does: with the modes of files."""
    with ZipFile(archive) as packed:
        packed.extractall(folder)
        for member in packed.infolist():
            if not member.is_dir():
                (folder / member.filename).chmod(member.external_attr >> 16)
    return folder


def test_files_that_git_tracks_or_would_track_are_sent_and_data_is_not(checkout: Path) -> None:
    found = working_tree.tree(checkout)
    assert set(found.files) == {".gitignore", "kept.py", "changed.py", "new.py", "deep/run.sh"}
    assert found.commit == {"commit": git(checkout, "rev-parse", "HEAD").strip(), "dirty": True}


def test_a_folder_without_git_follows_its_gitignore_too(checkout: Path) -> None:
    (checkout / ".git").rename(checkout.parent / "elsewhere")
    found = working_tree.tree(checkout)
    assert set(found.files) == {".gitignore", "kept.py", "changed.py", "new.py", "deep/run.sh"}
    assert found.commit == {"commit": None, "dirty": False}


@pytest.mark.parametrize("is_detached", [False, True])
def test_git_says_the_same_in_the_copy(checkout: Path, tmp_path: Path, is_detached: bool) -> None:
    if is_detached:
        git(checkout, "checkout", "--quiet", "--detach")
        git(checkout, "-c", "user.name=a", "-c", "user.email=b@c", *["commit", "-qam", "More"])
        (checkout / "kept.py").write_text("changed too\n")
    archive = tmp_path / "tree.zip"

    size = working_tree.pack(working_tree.tree(checkout), archive, "job")

    copy = unpack(archive, tmp_path / "copy")
    for words in (["rev-parse", "HEAD"], ["log", "--format=%s"]):
        assert git(copy, *words) == git(checkout, *words)
    assert git(copy, "status", "--porcelain", "--untracked-files=no") == git(
        checkout, "status", "--porcelain", "--untracked-files=no"
    )
    assert os.access(copy / "deep/run.sh", os.X_OK)
    assert "secret" not in (copy / ".git/config").read_text()
    assert git(copy, "remote") == ""
    assert size == sum(path.stat().st_size for path in copy.rglob("*") if path.is_file())


def test_no_two_jobs_share_a_package(checkout: Path, tmp_path: Path) -> None:
    (checkout / ".git").rename(tmp_path / "elsewhere")  # its copy never has the same bytes
    source = working_tree.tree(checkout)
    for name in ("one", "two"):
        working_tree.pack(source, tmp_path / name, name)
    assert (tmp_path / "one").read_bytes() != (tmp_path / "two").read_bytes()


def test_a_tree_that_is_too_large_is_refused_naming_its_largest_files(
    checkout: Path, tmp_path: Path
) -> None:
    with (checkout / "faces.bin").open("wb") as file:
        file.truncate(int(working_tree.LIMIT_MB * 1e6))
    with pytest.raises(ValueError, match=r"90 MB can be sent: .* are faces\.bin \(90\.0 MB\), "):
        working_tree.pack(working_tree.tree(checkout), tmp_path / "tree.zip", "job")
    assert not (tmp_path / "tree.zip").exists()


def test_files_that_ray_cannot_send_are_refused_by_name(checkout: Path) -> None:
    (checkout / "link").symlink_to("kept.py")
    with pytest.raises(ValueError, match=r"Ray sends no links .*: .* link$"):
        working_tree.tree(checkout)
    with pytest.raises(ValueError, match=f"is only a part of a checkout: run this in {checkout}"):
        working_tree.tree(checkout / "deep")


def test_the_address_is_found_as_ray_finds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"no cluster is named: give --address http://HOST:8265"):
        submission.find_address(None)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(ValueError, match=r"RAY_ADDRESS = 10\.0\.0\.1:6379 is not the address"):
        submission.find_address(None)
    monkeypatch.setenv("RAY_ADDRESS", "http://one:8265/")
    assert submission.find_address(None) == "http://one:8265"
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://two:8265")
    assert submission.find_address(None) == "http://two:8265"
    assert submission.find_address("https://three") == "https://three"


@contextlib.contextmanager
def serving(pages: Mapping[str, object]) -> Iterator[str]:
    """Answer with JSON on a port of this machine, 404 for other pages; a machine we do not own."""

    class Pages(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path in pages else 404)
            self.end_headers()
            self.wfile.write(json.dumps(pages.get(self.path)).encode())

        def do_PUT(self) -> None:
            left = int(self.headers["Content-Length"])
            while left:
                left -= len(self.rfile.read(min(left, 1 << 20)))
                time.sleep(0.1)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_an_address_where_nothing_listens_is_an_error_at_once() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(ValueError, match=f"nothing answers at {address} .*refused"):
            submission.connect(address)


def test_an_address_that_does_not_answer_is_an_error_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submission, "_TIMEOUT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        with pytest.raises(ValueError, match=r"nothing answers at .* \(timed out\)"):
            submission.connect(f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert time.monotonic() - started < 3


@pytest.mark.parametrize("pages", [{}, {"/api/version": "hello"}, {"/api/version": 1}])
def test_another_server_is_not_taken_for_a_dashboard(pages: Mapping[str, object]) -> None:
    with serving(pages) as address, pytest.raises(ValueError, match="is not a Ray dashboard"):
        submission.connect(address)


@pytest.mark.parametrize(
    ("ray_there", "python_there", "told"),
    [
        ("2.59.0", platform.python_version(), "Ray is 2.59.0 on the cluster"),
        (ray.__version__, "3.12.1", "Python is 3.12.1 on the cluster"),
    ],
)
def test_other_versions_are_refused(ray_there: str, python_there: str, told: str) -> None:
    pages = {
        "/api/version": {"version": "4", "ray_version": ray_there, "ray_commit": "x"},
        "/api/v0/cluster_metadata": {"data": {"pythonVersion": python_there}},
    }
    with serving(pages) as address, pytest.raises(ValueError, match=told):
        submission.connect(address)


def test_sending_a_tree_may_take_longer_than_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submission, "_SEND_TIMEOUT_S", 2.0)
    pages = {
        "/api/version": {"version": "4", "ray_version": ray.__version__, "ray_commit": "x"},
        "/api/v0/cluster_metadata": {"data": {"pythonVersion": platform.python_version()}},
    }
    with serving(pages) as address:
        client = submission.connect(address)
        answer = client._do_request("PUT", "/api/packages/gcs/tree.zip", data=bytes(40 << 20))
        assert answer.status_code == 200  # four seconds later
