"""An MLflow server that is away for a while: which errors say so, and how long to wait for it.

What a server refuses, it refuses again, and the error is raised at once. What fails on the way, or
in the server (5xx), is tried again until the server has been away for longer than a limit.
"""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

log = logging.getLogger(__name__)

LIMIT_S = 600.0  # a server that is away for longer is away for good
_RETRY_EVERY_S = 3.0
_UNAUTHORIZED = (401, 403)
_BUSY = (408, 429)

Answer = TypeVar("Answer")


class TrackingError(RuntimeError):
    """MLflow cannot be used; the message, one line, says which server and why."""


class AwayError(TrackingError):
    """The server did not answer: worth another try."""


class Server:
    """The calls to one MLflow, and since when it has not answered.

    A file on this machine is never away: its errors are raised as they are.
    """

    def __init__(self, uri: str) -> None:
        """Call nothing yet; `uri` must have no password in it, it is written into messages."""
        self._uri = uri
        self._away_since: float | None = None
        self._next_attempt = 0.0

    def insist(self, call: Callable[[], Answer], limit_s: float | None = None) -> Answer:
        """Call until there is an answer; `call` must be one that may be repeated.

        Raises: TrackingError if the server refuses, or is away for longer than `limit_s` (seconds,
            `LIMIT_S` unless given).
        """
        while True:
            try:
                return self._call(call, LIMIT_S if limit_s is None else limit_s)
            except AwayError:
                time.sleep(_RETRY_EVERY_S)

    def attempt(self, call: Callable[[], object]) -> bool:
        """Call unless the server was away a moment ago; tell whether it answered.

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
        """Raise what the error means, if that is more than it says."""
        if not self._uri.startswith(("http://", "https://")):
            return
        status = _status(error)
        if status in _UNAUTHORIZED:
            raise TrackingError(
                f"MLflow at {self._uri} does not let this user in ({status}): set "
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
    """Give the HTTP status; 500 where there was no answer, as MLflow does."""
    response = getattr(error, "response", None)
    if response is not None:
        return int(response.status_code)
    status = getattr(error, "get_http_status_code", None)
    return 500 if status is None else int(status())


def _innermost(error: BaseException) -> str:
    """Give the first line of what went wrong first: `[Errno 111] Connection refused`."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
