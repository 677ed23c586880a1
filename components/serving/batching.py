"""Work for many callers at once: one batch at a time, the next one of all that came meanwhile.

Ray Serve's own `@serve.batch` closes a batch as soon as its wait is over, though the one before is
still being worked on: requests that come one by one then stay alone, however many are waiting.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


class Batcher(Generic[Asked, Answer]):
    """Called with one piece of work, it is done with others'; for one event loop."""

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
            work: gives an answer for each; it runs in a thread.
            size: of a piece.
            max_size: of a batch; a larger piece is a batch of its own.
            wait_s: how long the first piece waits for others when nothing is being done.
        """
        self._work, self._size = work, size
        self._max_size, self._wait_s = max_size, wait_s
        self._waiting: deque[tuple[Asked, asyncio.Future[Answer]]] = deque()
        self._running: asyncio.Task[None] | None = None

    async def __call__(self, asked: Asked) -> Answer:
        """Give the answer; raises what `work` raises. A caller that is cancelled is left out."""
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
            except Exception as error:  # noqa: BLE001 - it is the callers'
                for future in futures:
                    if not future.done():
                        future.set_exception(error)
            else:
                for future, answer in zip(futures, answers, strict=True):
                    if not future.done():
                        future.set_result(answer)

    def _next(self) -> list[tuple[Asked, asyncio.Future[Answer]]]:
        """Take as much as a batch holds, in order, without what nobody waits for any more."""
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
