"""Items shared among workers: in this process alone, and on a cluster that loses one."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from components import cluster
from components.params import Compute

LOSES, REFUSES = 3, 5  # items


def start(folder: Path) -> Callable[[int], tuple[int, int]]:
    """Note each start; what it returns squares a number, and says in which process."""
    (folder / f"started-{os.getpid()}").touch()

    def square(item: int) -> tuple[int, int]:
        lost = folder / "lost"
        if item == LOSES and not lost.exists():
            lost.touch()
            os._exit(1)
        if item == REFUSES:
            raise KeyError(f"item {item}")
        return item**2, os.getpid()

    return square


@pytest.fixture
def on_cluster(ray_session: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", ray_session)


@pytest.mark.ray
@pytest.mark.usefixtures("on_cluster")
def test_results_come_in_order_from_workers_that_start_once_and_again_when_lost(
    tmp_path: Path,
) -> None:
    found = list(cluster.map_on_workers(Compute(workers=2), range(5), start, tmp_path))
    assert [square for square, _ in found] == [0, 1, 4, 9, 16]
    workers = {worker for _, worker in found}
    assert os.getpid() not in workers
    assert len(list(tmp_path.glob("started-*"))) == 3  # two, and the lost one again


@pytest.mark.ray
@pytest.mark.usefixtures("on_cluster")
def test_what_a_worker_raises_is_raised_here(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="item 5"):
        list(cluster.map_on_workers(Compute(workers=1), [1, REFUSES], start, tmp_path))


def test_without_a_cluster_this_process_does_it_as_the_results_are_taken(tmp_path: Path) -> None:
    results = cluster.map_on_workers(Compute(), [2, REFUSES], start, tmp_path)
    assert next(results) == (4, os.getpid())
    with pytest.raises(KeyError):
        next(results)
