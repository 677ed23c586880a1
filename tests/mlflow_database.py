"""An empty MLflow database, and kills in the middle of what is written to it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

_WRITES = (
    *("create_registered_model", "create_model_version", "set_model_version_tag"),
    *("set_registered_model_alias", "set_registered_model_tag", "log_artifacts"),
)

KillAfter = Callable[[int], AbstractContextManager[None]]


class Killed(BaseException):
    """What a kill is to the code: nothing catches it."""


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the tables once: it takes MLflow seconds."""
    from mlflow import MlflowClient

    file = tmp_path_factory.mktemp("empty") / "mlflow.db"
    MlflowClient(f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def kill_after() -> KillAfter:
    """Give what kills, within a `with`, right after the n-th write to MLflow."""
    from mlflow import MlflowClient

    @contextmanager
    def armed(number: int) -> Iterator[None]:
        left = number

        def counting(write: Callable[..., Any]) -> Callable[..., Any]:
            def counted(*arguments: Any, **named: Any) -> Any:
                nonlocal left
                answer = write(*arguments, **named)
                left -= 1
                if not left:
                    raise Killed
                return answer

            return counted

        with pytest.MonkeyPatch.context() as patch:
            for name in _WRITES:
                patch.setattr(MlflowClient, name, counting(getattr(MlflowClient, name)))
            yield

    return armed
