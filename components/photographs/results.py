"""What was done to each input: `results.jsonl`, one line for each, in the order of the inputs.

A line is added as soon as its file is done. So a run that is stopped, or killed, leaves the lines
of what it did after those of the runs before; the next run reads both.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from components import files

RESULTS = "results.jsonl"
Status = Literal["restored", "unchanged", "skipped", "failed"]


@dataclass(frozen=True)
class Result:
    """What was done to one input; `record` is that of the photograph or video."""

    input: str
    output: str | None
    status: Status
    reason: str | None = None
    seconds: float | None = None  # from reading to writing, including the wait for a full batch
    record: Mapping[str, Any] | None = None


class ResultsFile:
    """The file of a folder. In a `with` block it takes lines, and is put in order at the end."""

    def __init__(self, folder: Path, order: Sequence[str]) -> None:
        """Read the lines of earlier runs; `order` has the inputs of this one."""
        self._file, self._order = folder / RESULTS, order
        self._earlier = dict(_lines(self._file))
        self._done: dict[str, str] = {}

    def records(self) -> dict[str, Any]:
        """Return the records of earlier runs, by their result files."""
        return {
            line["output"]: line.get("record") for line in self._earlier.values() if line["output"]
        }

    def __enter__(self) -> Self:
        # What an earlier run did stays until this one has come to the same input.
        self._write(self._earlier.values())
        self._opened = self._file.open("ab")
        return self

    def add(self, result: Result) -> None:
        """Write the line of a result."""
        line = asdict(result)
        self._done[result.input] = _encoded(line)
        self._opened.write(self._done[result.input].encode("utf-8", "backslashreplace"))
        self._opened.flush()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._opened.close()
        lines = [self._done[name] for name in self._order if name in self._done]
        if kind is not None or len(lines) < len(self._order):  # stopped: the rest keeps its lines
            now = self._done.keys()
            lines += [_encoded(line) for name, line in self._earlier.items() if name not in now]
        files.write_bytes(self._file, "".join(lines).encode("utf-8", "backslashreplace"))

    def _write(self, lines: Iterable[Mapping[str, Any]]) -> None:
        text = "".join(map(_encoded, lines))
        files.write_bytes(self._file, text.encode("utf-8", "backslashreplace"))


def _encoded(line: Mapping[str, Any]) -> str:
    """Return a line of JSON. A byte of a name that is not UTF-8 becomes JSON's own escape."""
    return json.dumps(line, ensure_ascii=False) + "\n"


def _lines(file: Path) -> Iterable[tuple[str, dict[str, Any]]]:
    """Give the lines of a file by their inputs; of two for one input, the later is the last."""
    if not file.is_file():
        return
    for text in file.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            line = json.loads(text)
        except json.JSONDecodeError:  # the last line of a run that was killed, or an empty one
            continue
        if isinstance(line, dict) and {"input", "output"} <= line.keys():
            yield str(line["input"]), line
