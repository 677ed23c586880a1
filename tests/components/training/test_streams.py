import tempfile
from pathlib import Path

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from components.training import checkpoint
from components.training.checkpoint import Moving, Progress
from components.training.sampler import Row, RowStream
from components.training.streams import Stream
from tests.components.training.test_sampler import NUM_ROWS, read

NUM_STREAMS, BATCH_SIZE = 4, 3
Step = list[tuple[list[tuple[int, int]], float, float]]  # of each stream: rows, noise, dropout


class Rows:
    def __init__(self, number: int) -> None:
        self._stream = RowStream(NUM_ROWS, read, seed=3, number=number, num_streams=NUM_STREAMS)

    @property
    def position(self) -> int:
        return self._stream.position

    def seek(self, position: int) -> None:
        self._stream.seek(position)

    def take(self, count: int) -> list[Row]:
        return self._stream.take(count)


def one_step(streams: list[Stream]) -> Step:
    """Return what a step of these streams depends on, in the order of their numbers."""
    told = {}
    for stream in streams:
        rows = [(row.shard, row.index) for row in stream.batches.take(BATCH_SIZE)]
        with stream.randomness() as noise:
            told[stream.number] = (
                rows,
                float(torch.rand(1, generator=noise)),
                float(torch.rand(1)),
            )
    return [told[number] for number in sorted(told)]


def train(segments: list[tuple[int, int, int]]) -> list[Step]:
    """Return the steps of a training with a checkpoint after every few of them.

    A segment is a number of workers, of checkpoints, and of the steps that are lost after the last.
    """
    steps: list[Step] = []
    net = nn.Linear(1, 1)
    moving = Moving(net, torch.optim.AdamW(net.parameters()))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for world_size, num_checkpoints, num_lost in segments:
            ranks = [
                [
                    Stream(Rows(number), number, seed=5, device=torch.device("cpu"))
                    for number in range(rank, NUM_STREAMS, world_size)
                ]
                for rank in range(world_size)
            ]
            if any(folder.iterdir()):
                for streams in ranks:
                    checkpoint.load(folder, moving, streams, num_streams=NUM_STREAMS)
            everywhere = [stream for streams in ranks for stream in streams]
            for _ in range(num_checkpoints):
                steps.append(one_step(everywhere))
                for rank, streams in enumerate(ranks):
                    checkpoint.save(
                        folder,
                        moving,
                        Progress(),
                        streams,
                        num_streams=NUM_STREAMS,
                        is_first_rank=rank == 0,
                    )
            for _ in range(num_lost):
                one_step(everywhere)
    return steps


@settings(deadline=None, max_examples=10)
@given(
    st.lists(
        st.tuples(st.integers(1, NUM_STREAMS), st.integers(0, 4), st.integers(0, 2)),
        min_size=1,
        max_size=5,
    )
)
def test_a_resized_training_has_the_rows_and_randomness_of_one_that_was_not(
    segments: list[tuple[int, int, int]],
) -> None:
    steps = train(segments)
    assert steps == train([(NUM_STREAMS, len(steps), 0)])


def test_streams_differ_in_their_randomness() -> None:
    (first, second, *_), *_ = train([(2, 1, 0)])
    assert len({*first[1:], *second[1:]}) == 4
