"""The connection to MLflow: the server, the timeouts, and no password in an address.

`MLFLOW_TRACKING_URI` names the server; without it, MLflow writes `mlflow.db` and `mlartifacts/` in
the repository, also when DVC runs a stage in another checkout of it.
"""

import fcntl
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from components import experiments

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

URI_VARIABLE = "MLFLOW_TRACKING_URI"
_QUIET = ("alembic", "mlflow")
LARGEST_BATCH = 1000  # metrics that MLflow takes in one call
_TIMEOUT_S, _UPLOAD_TIMEOUT_S = 10, 300  # the server answers an upload when all of it is stored


def uri() -> str | None:
    """Return `MLFLOW_TRACKING_URI`.

    Raises: ValueError if it has a password in it, since it is written into logs; the message does
        not repeat it.
    """
    given = os.environ.get(URI_VARIABLE)
    if not given:
        return None
    try:
        parts = urlsplit(given)
    except ValueError:
        raise ValueError(
            f"{URI_VARIABLE} is not a URL: give http://HOST:PORT of an MLflow server"
        ) from None
    is_web = parts.scheme in ("http", "https")
    if parts.password or (is_web and "@" in parts.netloc) or "password=" in parts.query:
        raise ValueError(
            f"{URI_VARIABLE} has a user name or password in it, but is written into logs: remove "
            "it, and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD or write "
            "~/.mlflow/credentials"
        )
    return given


def open_client() -> "MlflowClient":
    """Make MLflow's client; `outages.Server` repeats its calls. Raises: ValueError as `uri`."""
    given = uri()
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "1")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # a bar per file
    # MLflow would wait for minutes, and repeat requests that the server may have carried out.
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(_TIMEOUT_S))
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    from mlflow import MlflowClient

    for name in _QUIET:  # importing mlflow sets the level of its own logger
        logging.getLogger(name).setLevel(logging.WARNING)
    if given is not None:
        return MlflowClient(given)
    with _locked("making"):  # two processes that both make its tables break it
        client = MlflowClient(f"sqlite:///{database()}")
        client.search_experiments(max_results=1)
        return client


def database() -> Path:
    """Return the file that runs are kept in without a server.

    Absolute: MLflow keeps one connection per name, even after the process changes its folder.
    """
    return experiments.repository() / "mlflow.db"


@contextmanager
def alone() -> Iterator[None]:
    """Wait until no other process is in this block with the same database.

    Two that read, decide and write would miss each other's work. A server's are not waited for.
    """
    if uri() is not None:
        yield
        return
    with _locked("alone"):
        yield


@contextmanager
def _locked(purpose: str) -> Iterator[None]:
    file = database()
    with file.with_name(f"{file.name}.{purpose}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def log_metrics(client: "MlflowClient", run_id: str, metrics: "Sequence[Metric]") -> None:
    """Write metrics into a run, however many there are."""
    for start in range(0, len(metrics), LARGEST_BATCH):
        client.log_batch(run_id, metrics=metrics[start : start + LARGEST_BATCH])


@contextmanager
def time_to_transfer() -> Iterator[None]:
    """Raise the timeout in the block: the server answers when the last byte is stored."""
    before = os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"]
    os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = str(max(int(before), _UPLOAD_TIMEOUT_S))
    try:
        yield
    finally:
        os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = before
