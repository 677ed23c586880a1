"""A running `hdrface serve`, photographs, and clients that send them."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import cv2
import numpy as np
import psutil  # type: ignore[import-untyped]

from benchmarks.stages import REPOSITORY
from components.portraits import drawing

MODEL = REPOSITORY / "models/sd21-sdfm"
PHOTOGRAPH_SIDE = 640  # pixels; the face in it is about 500 wide
NUM_PHOTOGRAPHS = 32
PATIENCE_S = 180


def detector_argument(description: str | None) -> Path:
    """Read the detector's file from the command line of a benchmark."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("detector", type=Path, help="ONNX file: SCRFD or YuNet")
    detector: Path = parser.parse_args().detector.resolve()
    return detector


def photographs(count: int = NUM_PHOTOGRAPHS) -> list[bytes]:
    """Draw blurred photographs with one face each, as JPEG."""
    drawn = []
    for number in range(count):
        image = drawing.draw(7, number, size=PHOTOGRAPH_SIDE).image
        blurred = cv2.GaussianBlur(np.asarray(image), (0, 0), 4)
        _, encoded = cv2.imencode(".jpg", cv2.cvtColor(blurred, cv2.COLOR_RGB2BGR))
        drawn.append(encoded.tobytes())
    return drawn


@dataclass(frozen=True)
class Answer:
    """The answer that a client got; status 0: the connection was lost."""

    status: int
    seconds: float  # from when the request was due
    at: float  # when the answer came, time.monotonic
    restored: bool = False


class Endpoint:
    """`hdrface serve` in its own process."""

    def __init__(self, folder: Path, detector: Path, *settings: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.host, self.port = "127.0.0.1", port
        self.url = f"http://127.0.0.1:{port}"
        python = [sys.executable, "-m", "pipelines.cli"]
        (folder / "conf").symlink_to(REPOSITORY / "conf")
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        subprocess.run([*python, "config", "use", "tiny"], cwd=folder, env=environment, check=True)
        given = [f"models={{sd21-sdfm: {MODEL}}}", f"detector={detector}", *settings]
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [*python, "serve", "--port", str(port), *given],
                cwd=folder,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def wait_until_ready(self) -> None:
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise RuntimeError(f"hdrface serve ended with {self.process.returncode}")
            try:
                urllib.request.urlopen(f"{self.url}/readyz", timeout=10)
            except OSError:
                time.sleep(0.5)
            else:
                return
        raise RuntimeError(f"hdrface serve is not ready after {PATIENCE_S} s")

    def replica(self, name: str) -> Any | None:
        """Return the process of a deployment's replica; None while there is none."""
        return next(iter(self.processes(f"hdrface:{name}")), None)

    def processes(self, title: str) -> list[Any]:
        """Return Ray's processes whose title contains a text."""
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.Error):
                if title in "".join(process.cmdline()):
                    found.append(process)
        return found

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(60)


@contextmanager
def running(detector: Path, *settings: str) -> Iterator[Endpoint]:
    """Start an endpoint and wait until it is ready; print its log if it fails."""
    if not MODEL.is_dir():
        raise SystemExit(f"{MODEL} does not exist: run `make demo` first")
    with tempfile.TemporaryDirectory(prefix="hdrface-serving-") as folder:
        endpoint = Endpoint(Path(folder), detector, *settings)
        try:
            endpoint.wait_until_ready()
            yield endpoint
        except BaseException:
            print((Path(folder) / "log").read_text()[-5000:], file=sys.stderr)
            raise
        finally:
            endpoint.stop()


class Memory:
    """Private memory of an endpoint's processes, in MB, measured every second."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self.seen: list[tuple[float, float]] = []  # seconds since the start, MB
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def mean_mb(self, since_s: float, until_s: float) -> float:
        return float(np.mean([mb for at, mb in self.seen if since_s <= at < until_s]))

    def _watch(self) -> None:
        started = time.monotonic()
        while not self._over.wait(1):
            total = 0.0
            for process in psutil.Process(self._endpoint.process.pid).children(recursive=True):
                try:
                    info = process.memory_info()
                except psutil.Error:
                    continue
                total += (info.rss - info.shared) / 1e6
            self.seen.append((time.monotonic() - started, total))


async def closed_loop(
    endpoint: Endpoint, pictures: Sequence[bytes], *, clients: int, seconds: float
) -> list[Answer]:
    """Let each client send its next photograph when it has the answer to the last one."""
    answers: list[Answer] = []
    end = time.monotonic() + seconds
    async with _session() as session:

        async def client(first: int) -> None:
            turn = first
            while time.monotonic() < end:
                picture = pictures[turn % len(pictures)]
                answers.append(await _ask(session, endpoint, picture, time.monotonic()))
                turn += clients

        await asyncio.gather(*(client(first) for first in range(clients)))
    return answers


async def open_loop(
    endpoint: Endpoint, pictures: Sequence[bytes], *, a_second: float, seconds: float
) -> list[Answer]:
    """Send photographs at a steady rate, without waiting for answers.

    Each is timed from when it was due, so that a stalled server shows in the numbers.
    """
    started = time.monotonic()
    async with _session() as session:
        sent = []
        for turn in range(int(a_second * seconds)):
            due = started + turn / a_second
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            picture = pictures[turn % len(pictures)]
            sent.append(asyncio.create_task(_ask(session, endpoint, picture, due)))
        return await asyncio.gather(*sent)


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(PATIENCE_S)
    )


async def _ask(
    session: aiohttp.ClientSession, endpoint: Endpoint, picture: bytes, due: float
) -> Answer:
    url, headers = f"{endpoint.url}/v1/restore", {"Content-Type": "image/jpeg"}
    try:
        async with session.post(url, data=picture, headers=headers) as answer:
            await answer.read()
            status = answer.status
            restored = answer.headers.get("X-HDRFace-Restored") == "1"
    except (aiohttp.ClientError, TimeoutError):
        status, restored = 0, False
    now = time.monotonic()
    return Answer(status, now - due, now, restored)


def statuses(answers: Sequence[Answer]) -> dict[str, int]:
    """Count answers by status."""
    found = Counter(answer.status for answer in answers)
    return {str(status): found[status] for status in sorted(found)}


def latency(answers: Sequence[Answer]) -> dict[str, float]:
    """Return p50, p95 and p99 of the answered requests, in milliseconds."""
    seconds = [answer.seconds for answer in answers if answer.status == 200]
    return {
        f"p{share}_ms": round(float(np.percentile(seconds, share)) * 1000, 1)
        for share in (50, 95, 99)
    }
