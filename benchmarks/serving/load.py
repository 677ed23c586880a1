"""Throughput with 32 clients compared with the bare pipeline, and latency at half that load.

The bare pipeline decodes, finds, restores in batches of the server's size, pastes and encodes, in
this process, with one thread for each core. Both get the same photographs and take turns, while the
other one is idle; the ratio is that of the medians.

    python -m benchmarks.serving.load DETECTOR
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence

from benchmarks import machine
from benchmarks.serving import endpoint as served
from components.faces.cutter import MIN_SCORE
from components.faces.detect import open_detector
from components.photographs import encoding, photograph
from components.photographs.face_restorer import FaceRestorer
from components.photographs.options import RestoreOptions
from components.photographs.restoration import PhotographRestorer
from components.restorers.folder import load_restorer

CLIENTS = 32
ROUNDS = 3
SECONDS = 20.0  # of one turn
FILL_S = 5.0  # until all queues of the endpoint have their usual length
HALF_LOAD_S = 60.0
BATCH = 16  # serve.max_batch of conf/base.yaml


def bare(pipeline: PhotographRestorer, pictures: Sequence[bytes], seconds: float) -> float:
    """Restore batch after batch in this process; return photographs per second."""
    options = RestoreOptions()
    started = time.perf_counter()
    done = 0
    while (passed := time.perf_counter() - started) < seconds:
        batch = [pictures[(done + turn) % len(pictures)] for turn in range(BATCH)]
        taken = [photograph.read(data) for data in batch]
        prepared = [(photo, pipeline.prepare(photo, options)) for photo in taken]
        for photo, restored in zip(
            taken, pipeline.restore_prepared(prepared, options), strict=True
        ):
            assert restored.record.num_restored == 1
            encoding.encode(restored.photograph, format=photo.format)
        done += BATCH
    return done / passed


def through_http(endpoint: served.Endpoint, pictures: Sequence[bytes], seconds: float) -> float:
    """Restore with all clients; return photographs per second."""
    answers = asyncio.run(
        served.closed_loop(endpoint, pictures, clients=CLIENTS, seconds=FILL_S + seconds)
    )
    assert all(answer.restored for answer in answers), served.statuses(answers)
    # Only full load counts, not the time in which the queues fill or empty.
    start = min(answer.at - answer.seconds for answer in answers) + FILL_S
    return sum(start < answer.at <= start + seconds for answer in answers) / seconds


def main() -> None:
    detector = served.detector_argument(__doc__)
    before = machine.facts()
    pictures = served.photographs()
    pipeline = PhotographRestorer(
        FaceRestorer(load_restorer(served.MODEL), batch_size=BATCH),
        detector=open_detector(detector, min_score=MIN_SCORE),
    )
    with served.running(detector) as endpoint:
        bare(pipeline, pictures, 3)
        through_http(endpoint, pictures, 1)
        rates: list[tuple[float, float]] = []
        for _ in range(ROUNDS):
            rates.append(
                (bare(pipeline, pictures, SECONDS), through_http(endpoint, pictures, SECONDS))
            )
            print("bare {:.1f}, through HTTP {:.1f} photographs/s".format(*rates[-1]))
        alone, served_rate = (statistics.median(side) for side in zip(*rates, strict=True))
        half = asyncio.run(
            served.open_loop(endpoint, pictures, a_second=served_rate / 2, seconds=HALF_LOAD_S)
        )
    results = {
        "clients": CLIENTS,
        "bare_photographs_per_s": round(alone, 2),
        "http_photographs_per_s": round(served_rate, 2),
        "ratio": round(served_rate / alone, 3),
        "rounds": [[round(rate, 2) for rate in pair] for pair in rates],
        "half_load": {
            "photographs_per_s": round(served_rate / 2, 2),
            "statuses": served.statuses(half),
            **served.latency(half),
        },
    }
    print(results)
    machine.save("serving.load", before, results)


if __name__ == "__main__":
    main()
