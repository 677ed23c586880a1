"""A running `hdrface serve`, for tests that ask it as people do."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx2 as httpx
import numpy as np
import psutil

from components import images
from tests.cluster.ray_nodes import free_ports
from tests.small_networks import SIZE

PATIENCE_S = 180
HEADERS = {"content-type": "image/png"}


class Endpoint:
    """A running `hdrface serve`."""

    def __init__(self, folder: Path, repository: Path, *settings: str, **environment: str) -> None:
        self.url = f"http://127.0.0.1:{free_ports(1)[0]}"
        self.log = folder / "log"
        port = self.url.rpartition(":")[2]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pipelines.cli", "serve", "--port", port, *settings],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(repository), **environment},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def wait_until_ready(self) -> None:
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            assert self.process.poll() is None, self.log.read_text()
            try:
                if httpx.get(f"{self.url}/readyz", timeout=10).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.5)
        raise AssertionError(self.log.read_text())

    def restore(self, data: bytes, timeout_s: float = 60) -> httpx.Response:
        """Ask with one aligned face, a PNG. Raises: httpx.ReadTimeout."""
        url = f"{self.url}/v1/restore?aligned=true"
        return httpx.post(url, content=data, headers=HEADERS, timeout=timeout_s)

    def replicas(self, name: str) -> list[psutil.Process]:
        of = psutil.Process(self.process.pid).children(recursive=True)
        return [child for child in of if f"hdrface:{name}" in "".join(child.cmdline())]

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(60)


def picture(seed: int) -> bytes:
    drawn = np.random.default_rng(seed)
    return images.encode_png(drawn.integers(256, size=(SIZE, SIZE, 3), dtype=np.uint8))
