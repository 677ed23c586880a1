"""Jobs on a real Ray with its job server and a token, on this machine."""

import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.cluster.ray_nodes import free_ports, wait_for

pytestmark = [pytest.mark.ray, pytest.mark.slow]

TOKEN = "a-token-of-the-tests-0123456789abcdef"
BIN = Path(sys.executable).parent
LOOK = """
import pathlib, subprocess
print(*sorted(path.name for path in pathlib.Path().iterdir()))
for words in (["rev-parse", "HEAD"], ["status", "--porcelain"]):
    print(subprocess.run(["git", *words], capture_output=True, text=True).stdout)
print(pathlib.Path("changed.txt").read_text())
pathlib.Path("left-behind").touch()
"""


class Cluster(NamedTuple):
    """A running Ray: the URL of its job server, and the environment of who may use it."""

    address: str
    environment: Mapping[str, str]

    def start(self, folder: Path, *words: str, **streams: int) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "pipelines.cli", *words],
            cwd=folder,
            env=self.environment,
            text=True,
            **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, **streams},
        )

    def run(self, folder: Path, *words: str) -> tuple[int, str, str]:
        """Run `hdrface`; return its exit code and what it wrote to stdout and stderr."""
        with self.start(folder, *words, stderr=subprocess.PIPE) as process:
            out, err = process.communicate(timeout=40)
        return process.returncode, out, err


@pytest.fixture(scope="module")
def cluster(repository: Path) -> Iterator[Cluster]:
    """Start a Ray of its own, whose job server asks for a token, and end it."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    clean |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "PATH": f"{BIN}:{clean['PATH']}"}
    dashboard, client, agent = free_ports(3)
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # a socket's path may not be long
    options = {
        "port": 0,
        "dashboard-port": dashboard,
        "ray-client-server-port": client,
        "dashboard-agent-listen-port": agent,
        "min-worker-port": 0,
        "max-worker-port": 0,
        "num-cpus": 1,
        "include-dashboard": "true",
        "temp-dir": folder,
    }
    words = [f"--{name}={value}" for name, value in options.items()]
    # Told to end, Ray would wait for half a minute.
    patience = {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"}
    with (Path(folder) / "log").open("w") as log:
        head = subprocess.Popen(
            [BIN / "ray", "start", "--head", "--block", "--disable-usage-stats", *words],
            env=clean | patience,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{dashboard}"
    setting = {"RAY_API_SERVER_ADDRESS": address, "PYTHONPATH": str(repository)}
    try:
        wait_for(address, head, Path(folder) / "log")
        yield Cluster(address, clean | setting)
    finally:
        os.killpg(head.pid, signal.SIGTERM)
        head.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Make a small checkout with a tracked, a changed, a new and an ignored file."""
    for name in ("tracked.txt", "changed.txt"):
        (tmp_path / name).write_text(f"{name}\n")
    (tmp_path / ".gitignore").write_text("/data/\n*.log\n")
    fingerprint = ("-c", "user.name=a", "-c", "user.email=b@c")
    for words in (["init", "-q"], ["add", "."], [*fingerprint, "commit", "-q", "-m", "All"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    (tmp_path / "changed.txt").write_text('it\'s "changed"\n')
    (tmp_path / "new.txt").touch()
    (tmp_path / "ignored.log").touch()
    (tmp_path / "data").mkdir()
    (tmp_path / "data/face.png").touch()
    return tmp_path


def head_of(checkout: Path) -> str:
    words = ["git", "rev-parse", "HEAD"]
    done = subprocess.run(words, cwd=checkout, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_job_runs_in_a_copy_of_the_tree_and_another_one_in_its_own(
    cluster: Cluster, checkout: Path
) -> None:
    for _ in range(2):  # the second one must not find what the first one left behind
        code, out, err = cluster.run(checkout, "submit", "--", "python", "-c", LOOK)
        assert code == 0, err
        names = ".git .gitignore changed.txt new.txt tracked.txt"
        status = " M changed.txt\n?? new.txt"
        assert f'\n{names}\n{head_of(checkout)}\n\n{status}\n\nit\'s "changed"\n' in out
    told = err.splitlines()
    assert len(told) == 3  # and nothing of Ray's own
    assert "HDRFACE_ROOT is not set: the job's results stay on the cluster" in told[1]
    assert re.search(r"sending 4 files, 0\.0 MB, commit \w{9} and changes$", told[0])


def test_a_failed_job_gives_its_exit_code_and_its_log_again_and_is_listed(
    cluster: Cluster, checkout: Path
) -> None:
    code, out, err = cluster.run(
        checkout, "submit", "--", "python", "-c", "print('half'); raise SystemExit(3)"
    )
    assert code == 3, err
    assert out.endswith("half\n")
    found = re.search(r"hdrface-\w{8}", err)
    assert found
    assert cluster.run(checkout, "submit", "--attach", found[0])[:2] == (3, out)
    code, table, _ = cluster.run(checkout, "jobs")
    assert code == 0
    newest = next(line for line in table.splitlines() if "hdrface-" in line)
    for word in (found[0], "FAILED", " s ", f"{head_of(checkout)[:9]} dirty", "python -c "):
        assert word in newest


def test_a_job_goes_on_without_its_follower_until_it_is_told_to_stop(
    cluster: Cluster, checkout: Path
) -> None:
    code, job, err = cluster.run(
        checkout, "submit", "--no-wait", "--", "sh", "-c", "echo begun; sleep 300"
    )
    assert code == 0, err
    assert f"hdrface submit --address {cluster.address} --attach {job}" in err
    words = ("submit", "--attach", job.strip())

    with cluster.start(checkout, *words, stderr=subprocess.PIPE) as follower:
        interrupt(follower)
        _, err = follower.communicate(timeout=20)
    assert follower.returncode == 130
    assert "continues; follow it with: hdrface submit --address" in err
    assert "RUNNING" in cluster.run(checkout, "jobs")[1]

    ours, theirs = pty.openpty()
    with cluster.start(checkout, *words, stdin=theirs, stderr=theirs) as follower:
        interrupt(follower)
        said = b""
        while b"[y/N]" not in said:
            said += os.read(ours, 1000)
        os.write(ours, b"y\n")
        assert follower.wait(40) == 1
    assert b"Traceback" not in said
    os.close(ours)
    os.close(theirs)
    assert "STOPPED" in cluster.run(checkout, "jobs")[1]


def interrupt(follower: subprocess.Popen[str]) -> None:
    """Press Ctrl-C once the log has begun."""
    assert follower.stdout
    while "begun" not in (line := follower.stdout.readline()) or "Running entrypoint" in line:
        assert line, "the log ended"
    follower.send_signal(signal.SIGINT)


@pytest.mark.cluster
def test_an_experiment_of_dvc_runs_in_a_job_and_comes_home(
    cluster: Cluster, checkout: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = str(tmp_path_factory.mktemp("root"))
    at = Cluster(cluster.address, {**cluster.environment, "HDRFACE_ROOT": root})
    stage = "stages:\n  copy:\n    cmd: cp tracked.txt out\n    params: [x]\n    outs: [out]\n"
    (checkout / "dvc.yaml").write_text(stage)
    (checkout / "params.yaml").write_text("x: 1\n")
    subprocess.run([BIN / "dvc", "init", "--quiet"], cwd=checkout, check=True)
    subprocess.run(["git", "add", "."], cwd=checkout, check=True)

    command = "dvc exp run --quiet -S x=2 && cat params.yaml && git for-each-ref"
    code, out, err = at.run(checkout, "submit", "--", "sh", "-c", command)

    assert code == 0, out + err
    assert "\nx: 2\n" in out
    [name] = dvc(checkout, "exp", "list", "--name-only").split()
    assert f"/{name}\n" in out
    assert "'dvc exp show' lists them" in err
    assert (checkout / "params.yaml").read_text() == "x: 2\n"


LINE = """
stages:
  first:
    cmd:
      - sleep 3 && cp tracked.txt first.out
      - mkdir -p metrics && echo 1 > metrics/first.json
    params: [x]
    outs: [first.out]
    metrics: [{metrics/first.json: {cache: false}}]
  second:
    cmd:
      - test -e {DATA}/permit || until ls {DATA}/jobs/*/dvc.lock; do sleep 0.1; done
      - test -e {DATA}/permit || kill -9 0
      - cp first.out second.out
    deps: [first.out]
    outs: [second.out]
"""


def test_results_come_home_and_a_killed_job_is_gone_on_with(
    cluster: Cluster, checkout: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("root")
    (checkout / "dvc.yaml").write_text(LINE.replace("{DATA}", str(root)))
    (checkout / "params.yaml").write_text("x: 1\n")
    dvc(checkout, "init", "--quiet")
    subprocess.run(["git", "add", "."], cwd=checkout, check=True)
    at = Cluster(cluster.address, {**cluster.environment, "HDRFACE_ROOT": str(root)})

    code, out, err = at.run(checkout, "submit", "--", "dvc", "repro")
    assert code == 128 + signal.SIGKILL, out + err
    assert "Running stage 'first'" in out
    assert (checkout / "metrics/first.json").exists()
    (checkout / "dvc.lock").unlink()  # as somebody who submits from another clone
    shutil.rmtree(checkout / "metrics")

    (root / "permit").touch()
    code, out, err = at.run(checkout, "submit", "--", "dvc", "repro")
    assert code == 0, out + err
    assert "Stage 'first' didn't change, skipping" in out
    assert "'dvc pull' brings the rest" in err
    assert (checkout / "metrics/first.json").read_text() == "1\n"
    dvc(checkout, "pull", "--quiet")
    assert (checkout / "second.out").read_text() == "tracked.txt\n"
    assert "Running stage" not in dvc(checkout, "repro")

    job = re.search(r"hdrface-\w{8}", err)
    assert job
    (checkout / "tracked.txt").write_text("another\n")
    (checkout / "dvc.lock").unlink()
    code, out, err = at.run(checkout, "submit", "--attach", job[0])
    assert code == 0
    assert "this tree has changed since it was sent" in err
    assert not (checkout / "dvc.lock").exists()
    assert (checkout / ".hdrface/jobs" / job[0] / "dvc.lock").exists()


def dvc(folder: Path, *words: str) -> str:
    done = subprocess.run(
        [BIN / "dvc", *words], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.mark.parametrize(
    ("words", "settings", "told"),
    [
        (["jobs"], {"RAY_AUTH_TOKEN": "wrong-token-0123456789"}, "refuses the token"),
        (["jobs"], {"RAY_AUTH_MODE": "disabled"}, "asks for a token: set RAY_AUTH_MODE=token"),
        (["submit", "--attach", "nothing"], {}, "no job 'nothing' at"),
        (["submit", "--", "true"], {"large": "1"}, "90 MB can be sent"),
    ],
)
def test_what_cannot_be_is_told_in_one_line_within_seconds(
    cluster: Cluster, checkout: Path, words: list[str], settings: Mapping[str, str], told: str
) -> None:
    if "large" in settings:
        with (checkout / "faces.bin").open("wb") as file:
            file.truncate(100_000_000)
    started = time.monotonic()
    guest = Cluster(cluster.address, {**cluster.environment, **settings})
    code, out, err = guest.run(checkout, *words)
    assert time.monotonic() - started < 15
    assert (code, out) == (2, "")
    assert err.startswith("hdrface: ")
    assert told in err
    assert len(err.splitlines()) == 1
    assert "token-0123" not in err
