"""Why a request is refused, in HTTP's terms, as a value that is sent between processes.

An exception from another process would carry a trace with that machine's paths.
"""

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import TypeVar

from components.serving.rates import Allowance

T = TypeVar("T")


@dataclass(frozen=True)
class Refused:
    """A refusal as a value; the client reads `message`."""

    status: int
    code: str
    message: str
    retry_after_s: int = 1  # of statuses that pass: 429, 503

    def refusal(self) -> "Refusal":
        return Refusal(self.status, self.code, self.message, self.retry_after_s)


class Refusal(Exception):  # noqa: N818 - it is an answer, not a fault
    """Ends the work on a request."""

    def __init__(self, status: int, code: str, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.refused = Refused(status, code, message, retry_after_s)


async def as_value(work: Awaitable[T]) -> T | Refused:
    """Return what work returns, or the refusal that it raises."""
    try:
        return await work
    except Refusal as refusal:
        return refusal.refused


def too_late() -> Refused:
    return Refused(504, "too_late", "the deadline passed before the picture was restored")


def busy() -> Refused:
    return Refused(429, "busy", "too many requests are waiting: try again in a moment")


def too_many(allowance: Allowance) -> Refused:
    message = f"this key may send {allowance.limit} requests a minute: come again later"
    return Refused(429, "too_many", message, allowance.reset_s)


def not_ready(problem: str) -> Refused:
    return Refused(503, "not_ready", f"no model is loaded: {problem}")


def another_version() -> Refused:
    """Refuse faces that belong to a model version that was replaced: cut them again."""
    return Refused(409, "another_version", "the model has changed: send the request again")
