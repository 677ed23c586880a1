"""Batches are as large as the load makes them, and nobody's answer goes to somebody else."""

import asyncio
import threading
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.serving.batching import Batcher


class Doubling:
    """Doubles numbers, each as large as itself; records its batches, and waits for `go`."""

    def __init__(self) -> None:
        self.batches: list[Sequence[int]] = []
        self.go = threading.Event()
        self.go.set()

    def __call__(self, numbers: Sequence[int]) -> Sequence[int]:
        self.batches.append(numbers)
        self.go.wait(10)
        if 13 in numbers:
            raise ValueError("13")
        return [2 * number for number in numbers]


def batcher(work: Doubling, *, max_size: int = 10) -> Batcher[int, int]:
    return Batcher(work, size=lambda number: number, max_size=max_size, wait_s=0.01)


async def at_work(work: Doubling, ask: Batcher[int, int]) -> asyncio.Task[int]:
    """Start a batch that runs until `work.go` is set."""
    work.go.clear()
    first = asyncio.create_task(ask(1))
    async with asyncio.timeout(10):
        while not work.batches:
            await asyncio.sleep(0.002)
    return first


def test_work_that_arrives_while_a_batch_runs_is_the_next_batch() -> None:
    async def run() -> None:
        work = Doubling()
        ask = batcher(work)
        first = await at_work(work, ask)
        late = []
        for number in (1, 2, 3, 4, 5):  # one by one, each after longer than the wait
            late.append(asyncio.create_task(ask(number)))
            await asyncio.sleep(0.02)
        work.go.set()
        assert [await one for one in (first, *late)] == [2, 2, 4, 6, 8, 10]
        assert [list(batch) for batch in work.batches] == [[1], [1, 2, 3, 4], [5]]

    asyncio.run(run())


def test_work_of_a_cancelled_caller_is_skipped() -> None:
    async def run() -> None:
        work = Doubling()
        ask = batcher(work)
        first = await at_work(work, ask)
        left, stays = asyncio.create_task(ask(2)), asyncio.create_task(ask(3))
        await asyncio.sleep(0.01)
        left.cancel()
        first.cancel()
        await asyncio.gather(left, first, return_exceptions=True)
        work.go.set()
        assert await stays == 6
        assert [list(batch) for batch in work.batches] == [[1], [3]]

    asyncio.run(run())


def test_an_error_is_raised_only_in_its_batch() -> None:
    async def run() -> None:
        work = Doubling()
        ask = batcher(work, max_size=14)
        answers = await asyncio.gather(*map(ask, (13, 1, 5)), return_exceptions=True)
        assert [str(answer) for answer in answers] == ["13", "13", "10"]
        with pytest.raises(ValueError, match="13"):
            await ask(13)
        assert await ask(4) == 8

    asyncio.run(run())


@given(st.lists(st.integers(1, 12).filter(lambda number: number != 13), max_size=30))
def test_each_caller_gets_its_own_answer_and_no_batch_is_too_large(numbers: list[int]) -> None:
    async def run() -> None:
        work = Doubling()
        assert await asyncio.gather(*map(batcher(work), numbers)) == [2 * one for one in numbers]
        assert [one for batch in work.batches for one in batch] == numbers
        assert all(sum(batch) <= 10 or len(batch) == 1 for batch in work.batches)

    asyncio.run(run())
