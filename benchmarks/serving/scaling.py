"""Let face finders and the model scale up under load and down again; count what this costs.

New processes of both are stopped for 20 s while they start, as if they loaded slowly. Then the load
falls to one client, until Ray Serve has taken the surplus away (ten minutes). No request may be
lost. The model restores one face at once here, so that it needs help as well.

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
PARTS = {"finder": "hdrface:finder", "model": "hdrface:model-sd21-sdfm"}


class SlowLoading(threading.Thread):
    """Stops each new process of one part for a time, and notes how many there are."""

    def __init__(self, endpoint: served.Endpoint, title: str) -> None:
        super().__init__(daemon=True)
        self._endpoint, self._title = endpoint, title
        self._known = {process.pid for process in endpoint.processes(title)}
        self.counts: list[int] = []
        self.num_held = 0
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.5):
            processes = self._endpoint.processes(self._title)
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
    settings = ("finder.max=3", "model.max=2", "max_batch=1")  # two CPUs have room for them
    with served.running(detector, *settings) as endpoint:
        slow = {part: SlowLoading(endpoint, title) for part, title in PARTS.items()}
        for watch in slow.values():
            watch.start()
        busy = asyncio.run(served.closed_loop(endpoint, pictures, clients=CLIENTS, seconds=BUSY_S))
        quiet = asyncio.run(served.closed_loop(endpoint, pictures, clients=1, seconds=QUIET_S))
        for watch in slow.values():
            watch.over.set()
            watch.join()
    answers = [*busy, *quiet]
    results = {
        "replicas": {
            part: {
                "most": max(watch.counts),
                "at_the_end": watch.counts[-1],
                "held_while_loading": watch.num_held,
            }
            for part, watch in slow.items()
        },
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
