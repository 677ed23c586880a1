"""When an MLflow server is away for a while: which errors mean that, and how long to wait.

A request that the server refuses would be refused again: the error is raised at once. A request
that fails on the way or in the server (5xx) is repeated until the server has been away too long.
"""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

log = logging.getLogger(__name__)

LIMIT_S = 600.0  # after that, the server counts as gone
_RETRY_EVERY_S = 3.0
_UNAUTHORIZED = (401, 403)
_BUSY = (408, 429)

Answer = TypeVar("Answer")


class TrackingError(RuntimeError):
    """MLflow cannot be used; the message says in one line which server and why."""


class AwayError(TrackingError):
    """The server did not answer: another attempt may succeed."""


class Server:
    """Calls to one MLflow, and the time since it stopped answering.

    A file on this machine is never away: its errors are raised as they are.
    """

    def __init__(self, uri: str) -> None:
        """Keep the address, which must have no password in it: messages repeat it."""
        self._uri = uri
        self._away_since: float | None = None
        self._next_attempt = 0.0

    def insist(self, call: Callable[[], Answer], limit_s: float | None = None) -> Answer:
        """Run `call` until the server answers; it must be safe to repeat.

        Raises: TrackingError if the server refuses, or is away for longer than `limit_s` (seconds,
            `LIMIT_S` unless given).
        """
        while True:
            try:
                return self._call(call, LIMIT_S if limit_s is None else limit_s)
            except AwayError:
                time.sleep(_RETRY_EVERY_S)

    def attempt(self, call: Callable[[], object]) -> bool:
        """Run `call` unless the server was away a moment ago; return whether it answered.

        Raises: TrackingError as `insist` does.
        """
        if self._away_since is not None and time.monotonic() < self._next_attempt:
            return False
        try:
            self._call(call, LIMIT_S)
        except AwayError:
            self._next_attempt = time.monotonic() + _RETRY_EVERY_S
            return False
        return True

    def _call(self, call: Callable[[], Answer], limit_s: float) -> Answer:
        from mlflow.exceptions import MlflowException
        from requests import RequestException

        started = time.monotonic()
        try:
            answer = call()
        except (MlflowException, RequestException) as error:
            self._judge(error, started, limit_s)
            raise
        if self._away_since is not None:
            away = _duration(time.monotonic() - self._away_since)
            log.warning("MLflow at %s answers again, after %s", self._uri, away)
            self._away_since = None
        return answer

    def _judge(self, error: Exception, started: float, limit_s: float) -> None:
        """Raise a clearer error, if the server was away or let nobody in."""
        if not self._uri.startswith(("http://", "https://")):
            return
        status = _status(error)
        if status in _UNAUTHORIZED:
            raise TrackingError(
                f"MLflow at {self._uri} refuses this user ({status}): set "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, "
                "or write ~/.mlflow/credentials"
            ) from error
        if status < 500 and status not in _BUSY:
            return
        why = _innermost(error)
        if self._away_since is None:
            self._away_since = started
            log.warning("MLflow at %s does not answer (%s): trying again", self._uri, why)
        away_s = time.monotonic() - self._away_since
        told = f"MLflow at {self._uri} (MLFLOW_TRACKING_URI) has not answered for "
        told += f"{_duration(away_s)} ({why})"
        raise (AwayError if away_s < limit_s else TrackingError)(told) from error


def _status(error: Exception) -> int:
    """Return the HTTP status; 500 if there was no answer, as MLflow does."""
    response = getattr(error, "response", None)
    if response is not None:
        return int(response.status_code)
    status = getattr(error, "get_http_status_code", None)
    return 500 if status is None else int(status())


def _innermost(error: BaseException) -> str:
    """Return the first line of the first cause: `[Errno 111] Connection refused`."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
