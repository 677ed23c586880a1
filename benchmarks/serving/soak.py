"""Send 3,000 uploads of 1 to 20 MB over half an hour; does the memory of any part grow?

They come at a steady rate, at most half of what the endpoint can do. A part passes if its memory at
the end is at most 1.1 times that after five minutes.

    python -m benchmarks.serving.soak DETECTOR
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import defaultdict

import cv2
import numpy as np
import psutil  # type: ignore[import-untyped]

from benchmarks import machine
from benchmarks.serving import endpoint as served
from components.portraits import drawing

UPLOADS = 3000
SECONDS = 1800.0
SETTLED_S = 300.0  # all buffers have had their largest picture by then
WINDOW_S = 60.0
SIZES_MB = (1, 2, 4, 7, 10, 14, 17, 20)
MOST = 1.1
PARTS = {
    **{name: f"hdrface:{name}" for name in ("ingress", "finder", "model", "jobs", "meter", "page")},
    "proxy": "ProxyActor",
}


def uploads() -> list[bytes]:
    """Draw a face in pictures whose PNG files have the sizes, by noise that does not compress."""
    drawn = []
    for number, megabytes in enumerate(SIZES_MB):
        side = int((megabytes * 1e6 / 3 / 0.65) ** 0.5)  # 5 of 8 bits are noise
        face = np.asarray(drawing.draw(7, number, size=side).image)
        noise = np.random.default_rng(number).integers(-16, 16, face.shape)
        noisy = np.clip(face.astype(int) + noise, 0, 255).astype(np.uint8)
        _, encoded = cv2.imencode(".png", noisy)
        drawn.append(encoded.tobytes())
    return drawn


class PartsMemory(threading.Thread):
    """Private memory of each part's processes, in MB, measured every two seconds."""

    def __init__(self, endpoint: served.Endpoint) -> None:
        super().__init__(daemon=True)
        self._endpoint = endpoint
        self.seen: dict[str, list[tuple[float, float]]] = defaultdict(list)
        self.over = threading.Event()

    def run(self) -> None:
        started = time.monotonic()
        while not self.over.wait(2):
            for part, title in PARTS.items():
                total = 0.0
                for process in self._endpoint.processes(title):
                    try:
                        info = process.memory_info()
                    except psutil.Error:
                        continue
                    total += (info.rss - info.shared) / 1e6
                self.seen[part].append((time.monotonic() - started, total))

    def median_mb(self, part: str, since_s: float) -> float:
        within = [mb for at, mb in self.seen[part] if since_s <= at < since_s + WINDOW_S]
        return float(np.median(within))


def main() -> None:
    detector = served.detector_argument(__doc__)
    before = machine.facts()
    pictures = uploads()
    with served.running(detector) as endpoint:
        usual = asyncio.run(served.closed_loop(endpoint, pictures, clients=4, seconds=30))
        capacity = len(usual) / 30
        rate = min(UPLOADS / SECONDS, capacity / 2)
        memory = PartsMemory(endpoint)
        memory.start()
        answers = asyncio.run(served.open_loop(endpoint, pictures, a_second=rate, seconds=SECONDS))
        memory.over.set()
        memory.join()
    parts = {}
    for part in PARTS:
        early, late = (memory.median_mb(part, at) for at in (SETTLED_S, SECONDS - WINDOW_S))
        parts[part] = {
            "mb_after_5_min": round(early, 1),
            "mb_at_the_end": round(late, 1),
            "ratio": round(late / early, 3),
            "passes": late <= MOST * early,
        }
    results = {
        "upload_mb": [round(len(picture) / 1e6, 1) for picture in pictures],
        "capacity_uploads_per_s": round(capacity, 2),
        "uploads_per_s": round(rate, 2),
        "sent": len(answers),
        "statuses": served.statuses(answers),
        **served.latency(answers),
        "memory": parts,
    }
    print(results)
    machine.save("serving.soak", before, results)


if __name__ == "__main__":
    main()
