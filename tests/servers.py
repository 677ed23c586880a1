"""What the line talks to beside Ray, as real servers on this machine: S3, PostgreSQL and MLflow."""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import pytest

S3_SECRET = "not-a-real-secret-0f7c"
BUCKET = "faces"


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """Run an S3 server with the bucket `faces`; gives its URL, for `s3_environment`."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        # Empty it: all servers of a process share one store.
        reset = urllib.request.Request(f"{endpoint}/moto-api/reset", method="POST")
        urllib.request.urlopen(reset).close()
        client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id="key",
            aws_secret_access_key=S3_SECRET,
        )
        client.create_bucket(Bucket=BUCKET)
        yield endpoint
    finally:
        server.stop()


def s3_environment(endpoint: str) -> dict[str, str]:
    """Give what a process needs in its environment to reach an S3 server."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": S3_SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
    }


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """Run an empty PostgreSQL on a socket of its own; gives SQLAlchemy's URL of its database.

    Skips the test where no PostgreSQL is installed.
    """
    programs = _postgres_programs()
    # PostgreSQL does not run as root. Its socket's path must be short.
    user = {"user": "postgres", "group": "postgres", "extra_groups": ()} if not os.getuid() else {}
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    if user:
        shutil.chown(folder, "postgres", "postgres")
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "cwd": folder, **user}
    data = folder / "data"
    options = ["--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C", "--no-sync"]
    subprocess.run([programs / "initdb", *options, "-D", data], check=True, **quiet)
    log = folder / "log"
    with log.open("w") as opened:
        # Nothing here outlives a crash of the machine, and so nothing is forced to the disk.
        settings = ["-c", "listen_addresses=", "-c", "fsync=off", "-k", str(folder)]
        server = subprocess.Popen(
            [programs / "postgres", "-D", data, *settings], stderr=opened, **quiet
        )
    try:
        _wait_until(lambda: _takes_connections(programs, folder), server, log, seconds=30)
        yield f"postgresql://postgres@/postgres?host={folder}"
    finally:
        server.send_signal(signal.SIGINT)  # does not wait for its clients
        server.wait(30)
        shutil.rmtree(folder)


def _postgres_programs() -> Path:
    """Find where `initdb` is: Debian keeps it out of PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=_version)
    if not found and (on_path := shutil.which("initdb")):
        found = [Path(on_path).resolve()]
    if not found:
        pytest.skip("needs PostgreSQL's server: apt-get install postgresql")
    if not os.getuid() and "postgres" not in {entry.pw_name for entry in pwd.getpwall()}:
        pytest.skip("needs a user `postgres`: PostgreSQL does not run as root")
    return found[-1].parent


def _version(initdb: Path) -> int:
    return int(initdb.parts[-3])


def _takes_connections(programs: Path, folder: Path) -> bool:
    return not subprocess.run(
        [programs / "pg_isready", "--quiet", "-h", folder], check=False
    ).returncode


class MlflowServer:
    """An MLflow server at a fixed port, which may be killed and started again."""

    def __init__(self, store: str, environment: Mapping[str, str], log: Path) -> None:
        """Prepare a server; `with` or `start` starts it.

        Args:
            store: SQLAlchemy's URL of the database: `postgres` gives one.
            environment: where its S3 is: `s3_environment` gives it.
            log: the file that it writes to.
        """
        self._store, self._log = store, log
        self._environment = {**os.environ, **environment, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "0"}
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server and wait until it answers."""
        options = {
            "backend-store-uri": self._store,
            "artifacts-destination": f"s3://{BUCKET}/mlflow",
            "host": "127.0.0.1",
            "port": self._port,
            "workers": 1,
        }
        words = [f"--{name}={value}" for name, value in options.items()]
        with self._log.open("a") as opened:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *words],
                env=self._environment,
                cwd=self._log.parent,
                stdout=opened,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        _wait_until(self._answers, self._process, self._log, seconds=120)

    def stop(self) -> None:
        """Kill the server and all its processes, as when a machine is lost."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):  # it never came up
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


def _wait_until(
    is_up: Callable[[], bool], server: "subprocess.Popen[bytes]", log: Path, *, seconds: float
) -> None:
    end = time.monotonic() + seconds
    while not is_up():
        assert server.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.1)
