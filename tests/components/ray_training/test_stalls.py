"""Who is behind when a training stands still, and where that is."""

import logging
import threading
import time
from typing import Any

import pytest

from components.ray_training.stalls import Sign, Stalls, signs, where
from components.training.pulse import Pulse

LIMIT_S = 600.0


def sign(rank: int, number: int, still_s: float) -> Sign:
    place = f"components/training/sampler.py:{rank} (take)"
    return Sign(rank, f"10.0.0.{rank}", number, "reading rows for step 7", still_s, place, rank)


def looked(*given: Sign) -> tuple[Stalls, list[int]]:
    ended: list[int] = []
    stalls = Stalls(LIMIT_S, ended.append)
    for one in given:
        stalls.hear(one)
    for _ in range(3):
        stalls.look()
    return stalls, ended


def test_the_worker_that_is_behind_is_named_once_and_later_ended(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    # Others came where they wait before it stopped, or after.
    first = [sign(0, 31, 110), sign(1, 30, 105), sign(2, 31, 101)]
    stalls, ended = looked(*first)
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith(
        "worker 1 on node 10.0.0.1 has made no progress for 105 s: reading rows for step 7, at "
        "components/training/sampler.py:1 (take)"
    )
    assert (ended, stalls.ended) == ([], "")
    stalls, ended = looked(*(one._replace(still_s=one.still_s + 500) for one in first))
    assert ended == [1]
    assert stalls.ended.startswith("worker 1 on node 10.0.0.1 which made no progress for 605 s")


def test_nobody_is_named_while_one_worker_still_makes_progress(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    assert looked(sign(0, 31, 5000), sign(1, 30, 90))[1] == []
    assert looked()[1] == []
    assert not caplog.records


def test_workers_at_the_same_place_are_all_named() -> None:
    stalls, ended = looked(sign(0, 30, 700), sign(1, 30, 700), sign(2, 31, 700))
    assert ended == [0, 1]
    assert "worker 0 on node 10.0.0.0" in stalls.ended
    assert "worker 1 on node 10.0.0.1" in stalls.ended


def test_a_worker_without_a_sign_gets_older() -> None:
    stalls = Stalls(0.2, lambda _: None)
    stalls.hear(sign(0, 1, 0))
    stalls.look()
    assert not stalls.ended
    time.sleep(0.25)
    stalls.look()
    assert stalls.ended.startswith("worker 0")


def stand(go: threading.Event, box: list[Any]) -> None:
    box.append(Pulse())
    box[0].beat("waiting")
    go.wait(60)


def test_signs_tell_the_line_of_the_training_and_what_it_is_in() -> None:
    go, box, told = threading.Event(), [], []
    thread = threading.Thread(target=stand, args=(go, box))
    thread.start()
    while not box or box[0].last.number == 0:
        time.sleep(0.01)
    with signs(box[0], 1.0, lambda *values: told.append(values)):
        while len(told) < 3:
            time.sleep(0.01)
    number = len(told)
    go.set()
    thread.join()
    time.sleep(0.1)
    assert len(told) <= number + 1  # none after the block, but for one on its way
    first_line = stand.__code__.co_firstlineno
    for count, doing, still_s, place in told:
        assert (count, doing) == (1, "waiting")
        assert 0 <= still_s < 10
        ours, _, inner = place.partition(", in ")
        assert ours == f"tests/components/ray_training/test_stalls.py:{first_line + 3} (stand)"
        assert "threading.py" in inner
    assert where(-1) == "an unknown place"
