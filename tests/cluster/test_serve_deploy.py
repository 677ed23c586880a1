"""`serve deploy infra/serve.yaml` on a running cluster, with a small model for the champion."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import yaml

from tests.cluster.ray_nodes import BIN, TOKEN, free_ports, wait_for
from tests.endpoint import HEADERS, PATIENCE_S, picture
from tests.small_networks import trained

pytestmark = [pytest.mark.cluster, pytest.mark.ray, pytest.mark.slow]


@pytest.fixture
def head(repository: Path) -> Iterator[str]:
    """Run a node that has the project, as infra/Dockerfile does; give its dashboard's address."""
    folder = Path(tempfile.mkdtemp(prefix="n-", dir="/tmp"))  # a socket's path may not be long
    gcs, dashboard, client, agent = free_ports(4)
    environment = {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
        "PYTHONPATH": str(repository),
    }
    words = [
        "start",
        "--head",
        "--block",
        "--num-cpus=4",
        f"--port={gcs}",
        "--min-worker-port=0",  # another test's Ray may use the usual ones
        "--max-worker-port=0",
        "--object-store-memory=200000000",
    ]
    words += [f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"]
    words += [f"--temp-dir={folder}/r"]
    words += [f"--dashboard-agent-listen-port={agent}", "--include-dashboard=true"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(BIN / "ray"), *words],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        address = f"http://127.0.0.1:{dashboard}"
        wait_for(address, process, folder / "log")
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


def test_the_file_of_the_repository_is_deployed_and_updated_and_restores(
    head: str, repository: Path, tmp_path: Path, networks: Path
) -> None:
    [port] = free_ports(1)
    config: dict[str, Any] = yaml.safe_load((repository / "infra/serve.yaml").read_text())
    config["http_options"]["port"] = port
    arguments = config["applications"][0]["args"]
    arguments["models"] = {"small": str(trained(tmp_path, networks, "sd21", "sdfm"))}
    arguments |= {"model": {"cpus": 0.5}, "self_test_psnr": 5, "look_every_s": 0.5}
    arguments["jobs"] |= {"folder": str(tmp_path / "jobs")}
    url = f"http://127.0.0.1:{port}"

    deploy(head, tmp_path, config)
    wait_until_ready(url, head)
    restored = httpx.post(
        f"{url}/v1/restore?aligned=true", content=picture(1), headers=HEADERS, timeout=90
    )
    assert (restored.status_code, restored.headers["x-hdrface-restored"]) == (200, "1")
    assert httpx.get(f"{url}/v1/models", headers={"host": "evil.example"}).status_code == 421
    files = [("image", ("a.png", picture(seed))) for seed in range(2)]
    sent = httpx.post(f"{url}/v1/jobs", files=files, data={"aligned": "true"}, timeout=60)
    job = url + sent.headers["location"]
    end = time.monotonic() + PATIENCE_S
    while httpx.get(job, timeout=60).json()["status"] != "finished":
        assert time.monotonic() < end
        time.sleep(0.5)

    arguments["requests_per_minute"] = 1
    deploy(head, tmp_path, config)
    end = time.monotonic() + PATIENCE_S
    while (last := httpx.post(f"{url}/v1/restore", timeout=60)).status_code != 429:
        assert time.monotonic() < end, last.text
        time.sleep(0.5)
    assert last.headers["ratelimit-limit"] == "1"
    # The jobs' folder stays, and so do the jobs.
    while (kept := httpx.get(job, timeout=60)).status_code != 200:
        assert time.monotonic() < end, kept.text
        time.sleep(0.5)
    assert kept.json()["status"] == "finished"


def serve(head: str, *words: str) -> str:
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    command = [str(BIN / "serve"), *words, "--address", head]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def deploy(head: str, folder: Path, config: dict[str, Any]) -> None:
    file = folder / "serve.yaml"
    file.write_text(yaml.safe_dump(config))
    serve(head, "deploy", str(file))


def wait_until_ready(url: str, head: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        try:
            if httpx.get(f"{url}/readyz", timeout=10).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    raise AssertionError(serve(head, "status"))
