"""Let the models scale up under load and down again; count the requests that this costs.

New processes of the model are stopped for 20 s while they start, as if they loaded slowly. Then the
load falls to one client, until Ray Serve has taken the surplus away (ten minutes). No request may
be lost.

    python -m benchmarks.serving.scaling DETECTOR
"""

from __future__ import annotations

import asyncio
import threading
import time

import psutil  # type: ignore[import-untyped]

from benchmarks import machine
from benchmarks.serving import endpoint as served

CLIENTS = 48
BUSY_S = 120.0
QUIET_S = 780.0  # Serve waits for 600 s before it scales down
HELD_S = 20.0
MODEL = "hdrface:model-sd21-sdfm"


class SlowLoading(threading.Thread):
    """Stops each new process of the model for a time, and notes how many there are."""

    def __init__(self, endpoint: served.Endpoint) -> None:
        super().__init__(daemon=True)
        self._endpoint = endpoint
        self._known = {process.pid for process in endpoint.processes(MODEL)}
        self.counts: list[int] = []
        self.num_held = 0
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.5):
            processes = self._endpoint.processes(MODEL)
            self.counts.append(len(processes))
            for process in processes:
                if process.pid not in self._known:
                    self._known.add(process.pid)
                    self._hold(process)

    def _hold(self, process: psutil.Process) -> None:
        try:
            process.suspend()
            time.sleep(HELD_S)
            process.resume()
        except psutil.Error:
            return
        self.num_held += 1


def main() -> None:
    detector = served.detector_argument(__doc__)
    before = machine.facts()
    pictures = served.photographs()
    scaling = ("model.min=1", "model.max=3", "max_batch=4")
    with served.running(detector, *scaling) as endpoint:
        slow = SlowLoading(endpoint)
        slow.start()
        busy = asyncio.run(served.closed_loop(endpoint, pictures, clients=CLIENTS, seconds=BUSY_S))
        quiet = asyncio.run(served.closed_loop(endpoint, pictures, clients=1, seconds=QUIET_S))
        slow.over.set()
        slow.join()
    answers = [*busy, *quiet]
    results = {
        "most_replicas": max(slow.counts),
        "replicas_at_the_end": slow.counts[-1],
        "held_while_loading": slow.num_held,
        "requests": len(answers),
        "statuses": served.statuses(answers),
        "lost": sum(not answer.restored for answer in answers),
        "busy": served.latency(busy),
        "quiet": served.latency(quiet),
    }
    print(results)
    machine.save("serving.scaling", before, results)


if __name__ == "__main__":
    main()
