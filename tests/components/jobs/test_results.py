"""What the trees of a job and its submitter exchange by a data root, with real DVC and S3."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import yaml

from components.jobs import results, runner
from components.storage import Storage, open_storage
from tests.servers import BUCKET, s3_environment, s3_server

pytestmark = pytest.mark.slow

LINE = """
stages:
  one:
    cmd:
      - mkdir -p out metrics && cp seed.txt out/a && echo b > out/b
      - cat seed.txt out/b out/b > metrics/one.json
    deps: [seed.txt]
    params: [x]
    outs: [out]
    metrics: [{metrics/one.json: {cache: false}}]
  two:
    cmd: cat out/a out/b > two.txt
    deps: [out]
    outs: [two.txt]
"""


def dvc(folder: Path, *words: str) -> str:
    command = [sys.executable, "-m", "dvc", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def git(folder: Path, *words: str) -> None:
    fingerprint = ("-c", "user.name=a", "-c", "user.email=b@c")
    subprocess.run(["git", *fingerprint, *words], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def committed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a small project once; each test has a copy."""
    folder = tmp_path_factory.mktemp("committed") / "checkout"
    folder.mkdir()
    git(folder, "init")
    dvc(folder, "init", "--quiet")
    (folder / "dvc.yaml").write_text(LINE)
    (folder / "params.yaml").write_text("x: 1\n")
    (folder / "seed.txt").write_text("1\n")
    (folder / ".gitignore").write_text("/two.txt\n/alone.txt\n/out\n")
    git(folder, "add", ".")
    git(folder, "commit", "-m", "All")
    return folder


@pytest.fixture
def checkout(tmp_path: Path, committed: Path) -> Path:
    return Path(shutil.copytree(committed, tmp_path / "checkout"))


@pytest.fixture
def root(tmp_path: Path) -> Storage:
    (tmp_path / "root").mkdir()
    return open_storage(str(tmp_path / "root"))


def copy_of(checkout: Path, name: str) -> Path:
    """Copy a checkout as a job's: without outs, cache and local configuration."""
    away = shutil.ignore_patterns("cache", "tmp", "config.local", "out", "two.txt", "alone.txt")
    return Path(shutil.copytree(checkout, checkout.parent / name, ignore=away))


def begin(checkout: Path, root: Storage, job: str) -> Path:
    folder = copy_of(checkout, job)
    results.use_remote(folder, root)
    results.go_on(folder, root, job)
    return folder


def names(folder: Path) -> list[str]:
    words = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.split()


def sent_of(checkout: Path, root: Storage) -> Mapping[str, str]:
    return {
        "root": root.url,
        "tree": results.digest(checkout, names(checkout)),
        "lock": results.lock_hash(checkout),
    }


def test_outs_are_pushed_while_a_repro_has_the_lock(checkout: Path, root: Storage) -> None:
    from dvc.repo import Repo

    job = begin(checkout, root, "job")
    dvc(job, "repro", "one")
    with Repo(str(job)).lock:  # a `dvc push` fails here, and would have kept it from a repro
        results.send(job, root, "job")
    pushed = [name for name in (root / "dvc").sizes() if name.startswith("files/md5/")]
    for content in ("1\n", "b\n"):  # each file of the folder, not its list alone
        digest = hashlib.md5(content.encode()).hexdigest()
        assert f"files/md5/{digest[:2]}/{digest[2:]}" in pushed
    told = ["dvc.lock", "metrics/one.json", "params.yaml", "sent.lock"]
    assert sorted((root / "jobs/job").sizes()) == told


def test_the_next_job_continues_from_the_last_one(checkout: Path, root: Storage) -> None:
    first = begin(checkout, root, "first")
    dvc(first, "repro", "one")
    results.send(first, root, "first")
    begin(checkout, root, "stopped-at-once")  # it hands on what it found

    second = begin(checkout, root, "second")
    assert (second / "out/a").read_text() == "1\n"
    assert (second / "metrics/one.json").read_text() == "1\nb\nb\n"
    told = dvc(second, "repro")
    assert "Stage 'one' didn't change, skipping" in told
    assert "Running stage 'two'" in told


def test_a_stage_that_the_tree_has_run_since_is_kept(checkout: Path, root: Storage) -> None:
    (checkout / "seed.txt").write_text("old\n")
    first = begin(checkout, root, "first")
    dvc(first, "repro")
    results.send(first, root, "first")
    (checkout / "seed.txt").write_text("new\n")
    dvc(checkout, "repro", "one")

    second = begin(checkout, root, "second")

    def stages(folder: Path) -> dict[str, object]:
        return dict(yaml.safe_load((folder / "dvc.lock").read_text())["stages"])

    assert stages(second)["one"] == stages(checkout)["one"]
    assert stages(second)["two"] == stages(first)["two"]
    assert (second / "metrics/one.json").read_text() == "new\nb\nb\n"


def test_results_come_once_and_beside_a_tree_that_changed(
    checkout: Path, root: Storage, tmp_path: Path
) -> None:
    sent = sent_of(checkout, root)
    job = begin(checkout, root, "job")
    dvc(job, "repro")
    results.send(job, root, "job")

    for _ in range(2):  # to attach again changes nothing
        results.land(checkout, "job", names(checkout), sent)
        assert not (checkout / results.BESIDE).exists()
    # What DVC has linked to its cache is not written in place.
    (tmp_path / "cached").hardlink_to(checkout / "metrics" / "one.json")
    results.land(checkout, "job", names(checkout), sent)
    assert not (checkout / "metrics" / "one.json").samefile(tmp_path / "cached")
    dvc(checkout, "pull", "--quiet")
    assert "Running stage" not in dvc(checkout, "repro")

    (checkout / "seed.txt").write_text("2\n")
    (checkout / "dvc.lock").write_text("mine")
    results.land(checkout, "job", names(checkout), sent)
    assert (checkout / "dvc.lock").read_text() == "mine"
    beside = checkout / results.BESIDE / "job"
    assert (beside / "dvc.lock").read_bytes() == (job / "dvc.lock").read_bytes()
    assert not [name for name in names(checkout) if name.startswith(".hdrface")]


def test_an_experiment_comes_back_with_its_parameters(checkout: Path, root: Storage) -> None:
    sent = sent_of(checkout, root)
    job = begin(checkout, root, "job")
    dvc(job, "exp", "run", "--quiet", "-S", "x=2")
    results.send(job, root, "job")
    for _ in range(2):
        results.land(checkout, "job", names(checkout), sent)
        assert (checkout / "params.yaml").read_text() == "x: 2\n"
        assert not (checkout / results.BESIDE).exists()
    dvc(checkout, "pull", "--quiet")
    assert "Running stage" not in dvc(checkout, "repro")


def test_missing_objects_are_made_again_and_the_others_are_used(
    checkout: Path, root: Storage
) -> None:
    first = begin(checkout, root, "first")
    dvc(first, "repro")
    results.send(first, root, "first")
    stages = yaml.safe_load((first / "dvc.lock").read_text())["stages"]
    lost = next(out["md5"] for out in stages["one"]["outs"] if out["path"] == "out")
    (root / "dvc/files/md5").delete(f"{lost[:2]}/{lost[2:]}")

    told = dvc(begin(checkout, root, "second"), "repro")

    assert "Running stage 'one'" in told
    assert "Stage 'two' didn't change, skipping" in told


def test_experiments_come_back_with_their_outs(checkout: Path, root: Storage) -> None:
    stage = "stages:\n  copy:\n    cmd: cp params.yaml out\n    params: [x]\n    outs: [out]\n"
    (checkout / "dvc.yaml").write_text(stage)
    (checkout / "params.yaml").write_text("x: 1\n")
    git(checkout, "add", ".")
    git(checkout, "commit", "-m", "An experiment")
    sent = sent_of(checkout, root)
    job = begin(checkout, root, "job")
    dvc(job, "exp", "run", "--quiet", "--temp", "--name", "with-2", "-S", "x=2")
    dvc(job, "exp", "run", "--quiet", "--name", "with-3", "-S", "x=3")
    results.send(job, root, "job")
    results.send_experiments(job, root, "job")

    results.land(checkout, "job", names(checkout), sent)

    assert set(dvc(checkout, "exp", "list", "--name-only").split()) == {"with-2", "with-3"}
    results.use_remote(checkout, root)
    # It says with its exit code that the outs are not here yet.
    subprocess.run(
        [sys.executable, "-m", "dvc", "exp", "apply", "with-2"], cwd=checkout, check=False
    )
    dvc(checkout, "pull", "--quiet")
    assert (checkout / "out").read_text() == "x: 2\n"


def test_a_root_that_is_not_mounted_here_is_named(checkout: Path, tmp_path: Path) -> None:
    sent = {**sent_of(checkout, open_storage(str(tmp_path / "nowhere")))}
    with pytest.raises(FileNotFoundError, match="nowhere is not mounted on this machine"):
        results.land(checkout, "job", names(checkout), sent)


def test_a_users_own_remote_stays_and_ours_follows_the_root(
    checkout: Path, root: Storage, tmp_path: Path
) -> None:
    for place in ("root", "moved"):
        results.use_remote(checkout, open_storage(str(tmp_path / place)))
        assert dvc(checkout, "config", "remote.hdrface.url").strip() == f"{tmp_path}/{place}/dvc"
    assert ".dvc/config.local" not in names(checkout)

    (checkout / ".dvc/config.local").unlink()
    dvc(checkout, "remote", "add", "--default", "own", str(tmp_path / "own"))
    results.use_remote(checkout, root)
    assert dvc(checkout, "config", "core.remote").strip() == "own"
    assert not (checkout / ".dvc/config.local").exists()


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    with s3_server() as endpoint:
        for name, value in s3_environment(endpoint).items():
            monkeypatch.setenv(name, value)
        yield open_storage(f"s3://{BUCKET}/team")


def test_dvc_finds_the_s3_server_of_the_environment(checkout: Path, bucket: Storage) -> None:
    sent = sent_of(checkout, bucket)
    job = begin(checkout, bucket, "job")
    dvc(job, "repro")
    results.send(job, bucket, "job")
    results.land(checkout, "job", names(checkout), sent)
    dvc(checkout, "pull", "--quiet")
    assert (checkout / "out/b").read_text() == "b\n"
    assert "Running stage" not in dvc(checkout, "repro")
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in (checkout / ".dvc/config.local").read_text()


def test_a_job_whose_results_are_lost_has_failed(
    checkout: Path, root: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HDRFACE_ROOT", root.url)
    monkeypatch.chdir(copy_of(checkout, "job"))
    away = f"dvc repro one && rm -r {root.url} && touch {root.url}"
    assert runner.run("job", ["sh", "-c", "exit 5"]) == 5
    assert runner.run("job", ["sh", "-c", away]) == 3
