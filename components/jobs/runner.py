"""What `hdrface submit` starts on the cluster: it runs a command and sends its results home.

    python -m components.jobs.runner NAME COMMAND...

Packages of the tree's lock that the cluster lacks are installed first. Results are sent after each
stage; without a data root, nothing is sent.
"""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from components import logs
from components.jobs import packages, results
from components.storage import Storage, data_root

_LOOK_EVERY_S = 1.0
_LAST_TRIES = 3
_NOT_SENT = 3  # the exit code of a command that succeeded, but whose results are lost

log = logging.getLogger(__name__)


def run(job: str, command: Sequence[str], folder: Path = Path()) -> int:
    """Run the command, and return its exit code as a shell would give it."""
    lacking = packages.differences(folder / packages.LOCK)
    settings = packages.complete(lacking) if lacking else os.environ
    root = data_root()
    if root is None:
        return _run(command, settings)
    results.use_remote(folder, root)
    results.go_on(folder, root, job)
    is_over = threading.Event()
    with ThreadPoolExecutor(max_workers=1) as pool:
        sending = pool.submit(_keep_sending, folder, root, job, is_over)
        try:
            code = _run(command, settings)
        finally:
            is_over.set()
    return code or (0 if sending.result() else _NOT_SENT)


def _run(command: Sequence[str], settings: Mapping[str, str]) -> int:
    with subprocess.Popen(command, env=settings) as process:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda signum, _: process.send_signal(signum))
        code = process.wait()
    return 128 - code if code < 0 else code


def _keep_sending(folder: Path, root: Storage, job: str, is_over: threading.Event) -> bool:
    """Send results when a stage ends: DVC writes its lock then. Return whether all are sent."""
    sent = results.lock_hash(folder)
    while not is_over.wait(_LOOK_EVERY_S):
        now = results.lock_hash(folder)
        if now != sent and _is_sent(folder, root, job):
            sent = now
    for _ in range(_LAST_TRIES):
        if _is_sent(folder, root, job):
            return True
        time.sleep(_LOOK_EVERY_S)
    log.error("%s has ended, but not all of its results are in %s", job, root.url)
    return False


def _is_sent(folder: Path, root: Storage, job: str) -> bool:
    """Send what there is; return whether that worked. The command continues in any case."""
    try:
        results.send(folder, root, job)
        results.send_experiments(folder, root, job)
    except OSError as error:
        log.warning("%s", error)
        return False
    return True


if __name__ == "__main__":
    logs.configure()
    try:
        code = run(sys.argv[1], sys.argv[2:])
    except (ValueError, OSError) as error:
        log.error("%s", error)
        code = 2
    sys.exit(code)
