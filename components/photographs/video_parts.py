"""The finished parts of a long video, and where its restoration was: what a kill leaves behind.

.HASH.partial/          beside the result, and gone when the result is there
    work.json           what is made; parts of other work are removed
    0.nut, 1.nut, ...   finished parts
    state.npz           how many there are, and what the next frame depends on
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from components import files
from components.images import Image

_WORK, _STATE = "work.json", "state.npz"
_SAID = "said"  # the array of the state's JSON text


@dataclass(frozen=True)
class State:
    """What the next frame depends on: JSON, and pictures by name, uint8 (H, W, 3)."""

    said: Mapping[str, Any]
    pictures: Mapping[str, Image] = field(default_factory=dict)


class Parts:
    """The parts of one video that are finished."""

    def __init__(self, target: Path, work: Mapping[str, Any]) -> None:
        """Find the parts of the same work that were left beside `target`, or begin.

        `work`, ready for JSON, is all that the result depends on.
        """
        # The name's hash: a file system takes no name longer than the longest.
        name = hashlib.sha256(target.name.encode(errors="surrogateescape")).hexdigest()[:16]
        self.folder = target.parent / f".{name}.partial"
        text = json.dumps(work, sort_keys=True)
        if not self._is_of(text):
            shutil.rmtree(self.folder, ignore_errors=True)
            files.write_text(self.folder / _WORK, text)
        self.state = self._read_state()
        self._lengths: list[int] = list(self.state.said["lengths"]) if self.state else []

    @property
    def num_frames(self) -> int:
        """Return how many frames are finished."""
        return sum(self._lengths)

    @property
    def finished(self) -> list[tuple[Path, int]]:
        """Return the finished parts, each with its number of frames."""
        return [(self._file(i), length) for i, length in enumerate(self._lengths)]

    @property
    def next_file(self) -> Path:
        """Return where the next part goes."""
        return self._file(len(self._lengths))

    def add(self, length: int, state: State) -> None:
        """Count the next part, of `length` frames, as finished, with the state behind it."""
        self._lengths.append(length)
        text = json.dumps({**state.said, "lengths": self._lengths})
        data = io.BytesIO()
        np.savez(data, **{_SAID: np.array(text)}, **state.pictures)  # type: ignore[arg-type]
        files.write_bytes(self.folder / _STATE, data.getvalue())

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, number: int) -> Path:
        return self.folder / f"{number}.nut"

    def _is_of(self, work: str) -> bool:
        try:
            return (self.folder / _WORK).read_text() == work
        except OSError:
            return False

    def _read_state(self) -> State | None:
        file = self.folder / _STATE
        if not file.is_file():
            return None
        with np.load(file) as arrays:
            pictures = {name: arrays[name] for name in arrays.files if name != _SAID}
            return State(json.loads(str(arrays[_SAID])), pictures)
