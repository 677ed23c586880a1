"""Why a request is not answered, said in HTTP's terms, as a value that travels between processes.

An exception would arrive wrapped in a trace of another machine, with its paths.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Refused:
    """`message` is for whoever sent the request."""

    status: int
    code: str
    message: str

    def refusal(self) -> "Refusal":
        return Refusal(self.status, self.code, self.message)


class Refusal(Exception):  # noqa: N818 - it is an answer, not a fault
    """Ends the handling of a request."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.refused = Refused(status, code, message)


def too_late() -> Refused:
    return Refused(504, "too_late", "the deadline passed before the picture was restored")


def busy() -> Refused:
    return Refused(429, "busy", "all places are taken: try again after a moment")


def not_ready(problem: str) -> Refused:
    return Refused(503, "not_ready", f"there is no model to restore with: {problem}")


def another_version() -> Refused:
    """Say that faces were cut for, or restored by, a version that has gone: cut them anew."""
    return Refused(409, "another_version", "the model has changed: ask again")
