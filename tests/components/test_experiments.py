import fcntl
from pathlib import Path

import pytest

from components import experiments
from components.tracking import client


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / ".dvc" / "tmp").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    "below", ["", "docs", ".dvc/tmp/exps/tmpa1b2", ".dvc/tmp/exps/x/tmpc/docs"]
)
def test_runs_lie_in_one_database_wherever_dvc_runs_a_stage(
    repository: Path, monkeypatch: pytest.MonkeyPatch, below: str
) -> None:
    (repository / below).mkdir(parents=True, exist_ok=True)
    if "exps" in below:  # an experiment's checkout is a repository, too
        (repository / Path(*Path(below).parts[:4]) / ".dvc").mkdir()
    monkeypatch.chdir(repository / below)
    assert client.database() == repository / "mlflow.db"


def test_outside_a_repository_runs_lie_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert client.database() == tmp_path / "mlflow.db"


def test_only_experiments_take_turns(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = repository / ".dvc" / "tmp" / "hdrface-ray.lock"
    monkeypatch.chdir(repository)
    with experiments.turn():
        assert not lock.exists()
    checkout = repository / ".dvc" / "tmp" / "exps" / "tmpa1b2"
    checkout.mkdir(parents=True)
    monkeypatch.chdir(checkout)
    with experiments.turn(), lock.open("w") as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with lock.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
