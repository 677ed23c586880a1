"""Kill replicas with SIGKILL under load, and count what clients lose.

A model and a face finder are killed in turn, one every 20 s, for two minutes: no request may be
lost. Then the ingress is killed twice: only its own requests in flight may fail.

    python -m benchmarks.serving.kills DETECTOR
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from benchmarks import machine
from benchmarks.serving import endpoint as served

CLIENTS = 16
EVERY_S = 20.0
INNER = ("model-sd21-sdfm", "finder") * 3
INGRESS = ("ingress",) * 2


async def under_kills(
    endpoint: served.Endpoint, pictures: Sequence[bytes], names: Sequence[str]
) -> tuple[list[served.Answer], list[str]]:
    """Send photographs while replicas are killed; return the answers and the killed replicas."""
    killed = []

    async def kill() -> None:
        for name in names:
            await asyncio.sleep(EVERY_S / 2)
            replica = await asyncio.to_thread(endpoint.replica, name)
            if replica is not None:
                replica.kill()
                killed.append(name)
            await asyncio.sleep(EVERY_S / 2)

    seconds = EVERY_S * len(names)
    answers, _ = await asyncio.gather(
        served.closed_loop(endpoint, pictures, clients=CLIENTS, seconds=seconds), kill()
    )
    return answers, killed


def main() -> None:
    detector = served.detector_argument(__doc__)
    before = machine.facts()
    pictures = served.photographs()
    results = {}
    with served.running(detector) as endpoint:
        for part, names in {"model_and_finder": INNER, "ingress": INGRESS}.items():
            answers, killed = asyncio.run(under_kills(endpoint, pictures, names))
            results[part] = {
                "clients": CLIENTS,
                "killed": killed,
                "requests": len(answers),
                "statuses": served.statuses(answers),
                "lost": sum(not answer.restored for answer in answers),
                **served.latency(answers),
            }
            print(part, results[part])
    machine.save("serving.kills", before, results)


if __name__ == "__main__":
    main()
