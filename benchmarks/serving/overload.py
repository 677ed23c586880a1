"""Send three times the endpoint's capacity for two minutes; measure the answers and the memory.

python -m benchmarks.serving.overload DETECTOR
"""

from __future__ import annotations

import asyncio

from benchmarks import machine
from benchmarks.serving import endpoint as served

CLIENTS = 32
CAPACITY_S = 20.0
TIMES = 3
SECONDS = 120.0


def main() -> None:
    detector = served.detector_argument(__doc__)
    before = machine.facts()
    pictures = served.photographs()
    with served.running(detector) as endpoint:
        usual = asyncio.run(
            served.closed_loop(endpoint, pictures, clients=CLIENTS, seconds=CAPACITY_S)
        )
        capacity = len(usual) / CAPACITY_S
        with served.Memory(endpoint) as memory:
            answers = asyncio.run(
                served.open_loop(endpoint, pictures, a_second=TIMES * capacity, seconds=SECONDS)
            )
        after = asyncio.run(served.closed_loop(endpoint, pictures, clients=1, seconds=3))
    accepted = [answer for answer in answers if answer.status != 429]
    early, late = memory.mean_mb(SECONDS / 6, SECONDS / 3), memory.mean_mb(SECONDS * 5 / 6, SECONDS)
    results = {
        "capacity_photographs_per_s": round(capacity, 2),
        "sent_per_s": round(TIMES * capacity, 2),
        "sent": len(answers),
        "statuses": served.statuses(answers),
        "accepted_and_restored": sum(answer.restored for answer in accepted),
        "accepted_and_not_restored": sum(not answer.restored for answer in accepted),
        "accepted": served.latency(accepted),
        "memory_mb": {"20 to 40 s": round(early), "100 to 120 s": round(late)},
        "memory_ratio": round(late / early, 3),
        "statuses_afterwards": served.statuses(after),
    }
    print(results)
    machine.save("serving.overload", before, results)


if __name__ == "__main__":
    main()
