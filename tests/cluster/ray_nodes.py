"""A Ray cluster on this machine whose nodes share nothing but the network.

Each node lives in process and mount namespaces of its own, where neither this checkout's code nor
another node's folders are to be seen: a file that a worker wants from there is missing, as on
another machine. A lost node is the end of all its processes at once.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

TOKEN = "a-token-of-the-tests-0123456789abcdef"
BIN = Path(sys.executable).parent
REPOSITORY = Path(__file__).parents[2]
_NAMESPACES = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
_PATIENCE_S = 120


class Nodes:
    """A head and any number of nodes, one CPU each."""

    def __init__(
        self, folder: Path, environment: Mapping[str, str], hidden: Sequence[Path]
    ) -> None:
        self.folder = folder
        self.environment = {
            **environment,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": TOKEN,
            "RAY_USAGE_STATS_ENABLED": "0",
            "PATH": f"{BIN}:{environment['PATH']}",
        }
        code = [REPOSITORY / "components", REPOSITORY / "pipelines"]
        self._hidden = [*code, *hidden]
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self.gcs_port, self._dashboard = free_ports(2)
        self.address = f"http://127.0.0.1:{self._dashboard}"

    def start_head(
        self, environment: Mapping[str, str], *, cpus: int = 1, autoscaler: Path | None = None
    ) -> None:
        """Start the head and wait for its job server; `autoscaler` is its file, of all nodes."""
        [client] = free_ports(1)
        words = ["--head", f"--port={self.gcs_port}", f"--dashboard-port={self._dashboard}"]
        words += [f"--ray-client-server-port={client}", "--include-dashboard=true"]
        words += [f"--autoscaling-config={autoscaler}"] if autoscaler else []
        self._start("head", words, environment, cpus=cpus)
        wait_for(self.address, self._running["head"], self.folder / "head/log")

    def start(self, name: str, environment: Mapping[str, str], *, cpus: int = 1) -> None:
        """Start a node, which joins the head in its own time."""
        self._start(name, [f"--address=127.0.0.1:{self.gcs_port}"], environment, cpus=cpus)

    def wait_until_joined(self, *names: str) -> None:
        """Wait for nodes that were just started."""
        end = time.monotonic() + _PATIENCE_S
        for name in names:
            log = self.folder / name / "log"
            while b"will now block forever" not in log.read_bytes():
                assert self._running[name].poll() is None, log.read_text()
                assert time.monotonic() < end, log.read_text()
                time.sleep(0.2)

    def _start(
        self, name: str, words: Sequence[str], environment: Mapping[str, str], *, cpus: int
    ) -> None:
        own = self.folder / name
        (own / "cwd").mkdir(parents=True, exist_ok=True)
        others = [self.folder / other for other in ("head", "1", "2") if other != name]
        hide = [path for path in [*self._hidden, *others] if path.is_dir()]
        mounts = "".join(f"mount -t tmpfs none '{path}' && " for path in hide)
        [agent] = free_ports(1)
        options = [*words, f"--num-cpus={cpus}", "--block", f"--temp-dir={own}/ray"]
        options += ["--min-worker-port=0", "--max-worker-port=0"]
        options += [f"--dashboard-agent-listen-port={agent}", "--object-store-memory=200000000"]
        command = f"{mounts} exec ray start {' '.join(options)}"
        with (own / "log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                [*_NAMESPACES, "sh", "-c", command],
                cwd=own / "cwd",
                env={**self.environment, "HDRFACE_STORE": str(own / "store"), **environment},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill(self, name: str) -> None:
        """Take a node away without a word, as when its power fails."""
        process = self._running.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its first process takes all others along
        process.wait(30)

    def hdrface(self, folder: Path, *words: str, **settings: str) -> subprocess.Popen[str]:
        """Start `hdrface` as somebody beside the cluster does."""
        return subprocess.Popen(
            [sys.executable, "-m", "pipelines.cli", *words],
            cwd=folder,
            env={
                **self.environment,
                "PYTHONPATH": str(folder),
                "RAY_API_SERVER_ADDRESS": self.address,
                **settings,
            },
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def stop(self) -> None:
        for name in list(self._running):
            self.kill(name)


@contextlib.contextmanager
def ray_nodes(environment: Mapping[str, str], hidden: Sequence[Path]) -> Iterator[Nodes]:
    """Have a place for a cluster, and end what was started there."""
    if subprocess.run([*_NAMESPACES, "true"], check=False, capture_output=True).returncode:
        pytest.skip("needs leave to make namespaces: run it as root")
    folder = Path(tempfile.mkdtemp(prefix="n-", dir="/tmp"))  # a socket's path may not be long
    clean = {name: value for name, value in environment.items() if not name.startswith("RAY_")}
    nodes = Nodes(folder, clean, hidden)
    try:
        yield nodes
    finally:
        nodes.stop()
        shutil.rmtree(folder, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def wait_for(address: str, head: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the job server at an address takes jobs."""
    end = time.monotonic() + _PATIENCE_S
    while time.monotonic() < end:
        assert head.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(f"{address}/api/jobs/", timeout=5)
        except urllib.error.HTTPError:
            return  # it asks for the token
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"Ray's job server does not answer: {log.read_text()}")
