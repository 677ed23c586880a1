"""The best model that a training has had so far, by a metric of its validation.

Each checkpoint but the last has it as `best/`: what `export` wrote at the best step so far. In the
last checkpoint, it takes the place of the last step's model.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from shutil import copytree, rmtree

from components.history import BEST_STEP, HistoryPoint
from components.metrics.catalogue import CATALOGUE

BEST = "best"


class BestModel:
    """Keeps the exported files of the best step, and puts them into every checkpoint.

    So a checkpoint has all that a resumed training needs, and no more than one model is kept beside
    the latest state.
    """

    def __init__(self, metric: str, folder: Path, resume_from: Path | None) -> None:
        """Keep the files in `folder`, on the disk where checkpoints are written first."""
        self._sign = 1 if CATALOGUE[metric].direction == "higher" else -1
        self._name, self._kept = f"validation_{metric}", folder / BEST
        if resume_from is not None and (resume_from / BEST).is_dir():
            copytree(resume_from / BEST, self._kept)

    def step(self, history: Sequence[HistoryPoint]) -> float:
        """Return the step of the best point, the first one among equals."""
        points = [point for point in history if self._name in point]
        best = max(points, key=lambda point: (self._sign * point[self._name], -point["step"]))
        return best["step"]

    def write(
        self,
        checkpoint: Path,
        export: Callable[[Path], None],
        last: HistoryPoint,
        *,
        is_last: bool,
    ) -> None:
        """Write the best model into a checkpoint whose last point of the history is `last`.

        All ranks must call it, since `export` may gather what is sharded.
        """
        if last.get(BEST_STEP) == last["step"]:
            if self._kept.exists():
                rmtree(self._kept)
            self._kept.mkdir()
            export(self._kept)
        if self._kept.exists():
            # Links: the files are there once, however large the model is.
            target = checkpoint if is_last else checkpoint / BEST
            copytree(self._kept, target, copy_function=os.link, dirs_exist_ok=True)
