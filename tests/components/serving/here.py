"""The endpoint in this process: its parts, which Serve runs in several, and clients of it."""

import asyncio
from collections.abc import Sequence

import numpy as np
from fastapi.testclient import TestClient
from starlette.types import ASGIApp

from components import images
from components.faces.detect import Detection
from components.photographs import restoration
from components.photographs.options import RestoreOptions
from components.photographs.restoration import Prepared
from components.serving import api
from components.serving.guard import Event
from components.serving.keys import Keys
from components.serving.model import FacesAnswer, FacesRequest, FollowingModel, ModelState
from components.serving.rates import Allowance, Rates
from components.serving.refusal import Refused
from components.serving.steps import Limits

HERE = ("127.0.0.1", 40_000)
ELSEWHERE = ("192.0.2.7", 40_000)
MIN_PSNR = 9.0  # dB: these networks are untrained
LIMITS = Limits(upload_bytes=200_000, pixels=300_000, faces=2, timeout_s=20, waiting=3)


class HereParts:
    """The parts that Serve runs in several processes, in one process."""

    names = ("small", "twin")

    def __init__(self, model: FollowingModel) -> None:
        self.model, self.events = model, list[Event]()
        self.pause_s = 0.0
        self.rates: Rates | None = None

    async def find(self, image: images.Image, options: RestoreOptions, size: int) -> Prepared:
        return restoration.prepare(image, None, options, size=size)

    async def detect(self, _: images.Image) -> list[Detection]:
        return []  # no detector is here

    async def restore(self, model: str, asked: FacesRequest) -> FacesAnswer:
        assert model in self.names
        await asyncio.sleep(self.pause_s)
        [answer] = self.model.restore([asked])
        if isinstance(answer, Refused):
            raise answer.refusal()
        return answer

    async def states(self) -> Sequence[ModelState]:
        return [self.model.state(name) for name in self.names]

    def count(self, event: Event) -> None:
        self.events.append(event)

    async def take(self, owner: str) -> Allowance | None:
        return None if self.rates is None else self.rates.take(owner)

    async def metrics(self) -> bytes:
        return f"events {len(self.events)}\n".encode()


def asking(
    parts: HereParts,
    address: tuple[str, int] = HERE,
    keys: Keys | None = None,
    page: ASGIApp | None = None,
) -> TestClient:
    """Return a client on a machine, of an endpoint that is also called `restore.example`."""
    app = api.build(
        parts, limits=LIMITS, keys=keys, threads=1, hosts=["restore.example"], page=page
    )
    return TestClient(app, base_url="http://localhost", client=address)


def picture(side: int = 48) -> bytes:
    pixels = np.random.default_rng(side).integers(256, size=(side, side, 3), dtype=np.uint8)
    return images.encode_png(pixels)
