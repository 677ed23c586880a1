import time

import pytest

from components.cluster import capacity
from components.params import Compute

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


def test_free_room_is_what_others_leave_and_asking_takes_nothing() -> None:
    one = Compute(cpus=1)
    assert capacity.free(one, 5) == 2
    with capacity.together(one, 1) as held:
        assert held.wait(10)
        assert capacity.free(one, 5) == 1
        assert capacity.free(Compute(cpus=2), 5) == 0
    assert capacity.free(one, 1) == 1
    assert capacity.free(one, 5) == 2


def test_workers_together_get_all_their_room_or_none() -> None:
    one = Compute(cpus=1)
    with capacity.together(one, 3) as request:
        assert not request.wait(1)
        assert request.num_granted() == 0
        assert capacity.free(one, 5) == 2
    with capacity.singly(one, 3) as request:
        assert not request.wait(1)
        assert request.num_granted() == 2


def test_room_that_is_there_is_not_waited_for() -> None:
    started = time.monotonic()
    capacity.wait(Compute(cpus=2))
    assert time.monotonic() - started < capacity._ASK_EVERY_S
