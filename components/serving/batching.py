"""Collect the work of many callers into batches, one batch at a time.

What arrives while a batch runs is in the next batch. Ray Serve's `@serve.batch` closes a batch when
its wait is over, even if the previous batch still runs: requests that arrive one by one then stay
alone, however many are waiting.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


class Batcher(Generic[Asked, Answer]):
    """Does one caller's work together with that of others; for one event loop."""

    def __init__(
        self,
        work: Callable[[Sequence[Asked]], Sequence[Answer]],
        *,
        size: Callable[[Asked], int],
        max_size: int,
        wait_s: float,
    ) -> None:
        """Prepare; nothing runs yet.

        Args:
            work: returns an answer for each piece; it runs in a thread.
            size: returns the size of a piece.
            max_size: of a batch; a larger piece becomes a batch of its own.
            wait_s: how long the first piece waits for others when no batch runs.
        """
        self._work, self._size = work, size
        self._max_size, self._wait_s = max_size, wait_s
        self._waiting: deque[tuple[Asked, asyncio.Future[Answer]]] = deque()
        self._running: asyncio.Task[None] | None = None

    async def __call__(self, asked: Asked) -> Answer:
        """Return the answer; raises what `work` raises. Work of a cancelled caller is skipped."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((asked, answer))
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
        return await answer

    async def _run(self) -> None:
        await asyncio.sleep(self._wait_s)
        while batch := self._next():
            asked, futures = zip(*batch, strict=True)
            try:
                answers = await asyncio.to_thread(self._work, asked)
            except Exception as error:  # noqa: BLE001 - raised in the callers
                for future in futures:
                    if not future.done():
                        future.set_exception(error)
            else:
                for future, answer in zip(futures, answers, strict=True):
                    if not future.done():
                        future.set_result(answer)

    def _next(self) -> list[tuple[Asked, asyncio.Future[Answer]]]:
        """Take as much as a batch holds, in order; skip work whose caller was cancelled."""
        batch: list[tuple[Asked, asyncio.Future[Answer]]] = []
        size = 0
        while self._waiting:
            asked, future = self._waiting[0]
            if not future.done():
                size += self._size(asked)
                if batch and size > self._max_size:
                    break
                batch.append((asked, future))
            self._waiting.popleft()
        return batch
