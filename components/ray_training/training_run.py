"""One training from its parameters to a folder of weights: what all training stages share.

    models/sd21-sdfm.partial/FINGERPRINT/checkpoints   where Ray Train keeps the checkpoints;
                                                    with a data root, ROOT/trainings/FINGERPRINT
    models/sd21-sdfm.partial/FINGERPRINT/trained       what becomes models/sd21-sdfm
    models/sd21-sdfm/history.json                   the points of the history, beside the weights

A stage that was killed goes on from its last checkpoint, in the same MLflow run.
"""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components import cluster, files, git, history, lineage
from components.history import BEST_STEP, HISTORY, VALIDATION, HistoryPoint
from components.params import Compute, ElasticBatch, Workers
from components.progress import Progress
from components.ray_training import distributed
from components.ray_training.distributed import TrainingError
from components.ray_training.worker import News, Picture, Worker
from components.storage import Storage, data_root, sync_folder
from components.tables import Table, unfinished
from components.tracking.outages import TrackingError
from components.tracking.runs import TrainingRun
from components.training.seat import TRAINED

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Training:
    """What a training is made from: all of it decides the result, and so the fingerprint."""

    stage: str  # as in dvc.yaml: `train@sd21-sdfm`
    module: str  # whose sources count: `pipelines.train`
    params: Mapping[str, Any]
    inputs: Mapping[str, str]  # fingerprints of tables and weights, by name
    workers: Workers
    num_steps: int
    elastic_batch: ElasticBatch = "global"
    # What MLflow compares trainings by beside their parameters: `backbone`, `condition`. It follows
    # from the rest, and is no part of the fingerprint.
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        return lineage.fingerprint(
            stage=self.stage,
            params=dict(self.params),
            inputs=dict(self.inputs),
            workers=self.workers,
            elastic_batch=self.elastic_batch,
            sources=lineage.source_hashes(self.module),
        )

    def lineage(self, pairs: Table, features: Table | None = None) -> dict[str, Any]:
        """Tell, as JSON values, where the result comes from; `training` finds its MLflow run.

        The parameters of `pairs` are among them: who tests the model alone degrades as it learned.
        So are those of `features`, if it learns from cached tokens.
        """
        made = {"degrade": dict(pairs.params)}
        if features is not None:
            made["features"] = dict(features.params)
        return {
            "git": dict(git.commit(lineage.ROOT)),
            "training": self.fingerprint,
            "inputs": dict(self.inputs),
            "params": {**self.params, **made},
        }


def run(
    training: Training,
    out: Path,
    *,
    worker: Worker,
    config: Mapping[str, Any],
    compute: Compute,
) -> None:
    """Train, and make `out` of the folder `trained` in the worker's last checkpoint.

    Args:
        training: what it is made from.
        out: the result, replaced as a whole.
        worker: see `distributed.fit`; gets `config` and its `fingerprint`.
        config: must pickle.
        compute: what a worker needs, and the waits of an elastic training.

    Raises: Locked if another process trains this; TrainingError, also if MLflow is away for longer
        than `outages.LIMIT_S`; TrackingError if it is away at the start.
    """
    fingerprint = training.fingerprint
    with unfinished.lock(out):
        partial = _resume(out, fingerprint)
        storage = _storage(partial, fingerprint)
        # One after the other: Ray, MLflow and DVC import each other's parts, and doing so from two
        # threads to save the seconds ended in deadlocks of the import system.
        tracked = _begin(training, fingerprint)
        with cluster.session(compute):
            try:
                checkpoint = _fit(
                    training,
                    storage,
                    tracked,
                    worker,
                    {**config, "fingerprint": fingerprint},
                    compute,
                )
                points = history.decode(checkpoint.read(HISTORY))
                _tell_best(points)
                trained = partial / TRAINED
                _copy(checkpoint / TRAINED, trained)
                files.write_bytes(trained / HISTORY, history.encode(points))
                with _checkpoint_kept():
                    tracked.log_points(points)  # if the training was complete already, all of them
                    tracked.log_model(trained)
                    tracked.finish()  # first: without its checkpoints it would begin anew
                _replace(out, trained)
                storage.delete_all()
            except BaseException:
                tracked.fail()
                raise


def _tell_best(points: Sequence[HistoryPoint]) -> None:
    """Say which step's model is the result, if a validation has chosen it."""
    if (step := points[-1].get(BEST_STEP)) is not None:
        (best,) = (point for point in points if point["step"] == step)
        scores = [f"{name} {best[name]:.4g}" for name in best if name.startswith(VALIDATION)]
        told = ", ".join(scores)
        log.info("the model is that of step %.0f of %.0f: %s", step, points[-1]["step"], told)


def _resume(out: Path, fingerprint: str) -> Path:
    """Give the folder where a training waits; that of any other fingerprint is discarded."""
    root = out.absolute().with_name(f"{out.name}.partial")
    if root.is_dir() and any(entry.name != fingerprint for entry in root.iterdir()):
        unfinished.discard(out)
    partial = root / fingerprint
    partial.mkdir(parents=True, exist_ok=True)
    return partial


def _storage(partial: Path, fingerprint: str) -> Storage:
    """Say where checkpoints go: to the data root, or beside the result."""
    root = data_root()
    if root is None:
        return Storage(str(partial / "checkpoints"))
    return root / "trainings" / fingerprint


def _copy(source: Storage, target: Path) -> None:
    """Copy a folder, by links where it lies on the same file system: its checkpoint is deleted."""
    for name in source.sizes():
        if source.is_folder:
            files.link(Path(source.path) / name, target / name)
        else:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            source.get(name, target / name)


def _replace(out: Path, trained: Path) -> None:
    """Put a folder in the place of an older one, as a whole, and forget the checkpoints."""
    for file in trained.rglob("*"):
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
    if out.exists():
        out.rename(trained.with_name("replaced"))
    trained.rename(out)
    sync_folder(out.absolute().parent)
    unfinished.discard(out)


def _begin(training: Training, fingerprint: str) -> TrainingRun:
    commit = git.commit(lineage.ROOT)
    return TrainingRun.begin(
        fingerprint,
        name=training.stage,
        source=training.module,
        params={
            **training.labels,
            **training.params,
            "workers": training.workers,
            "elastic_batch": training.elastic_batch,
        },
        commit=commit,
        inputs=training.inputs,
        lineage={
            "git": dict(commit),
            "inputs": dict(training.inputs),
            "dvc": lineage.dvc_hashes(training.stage),
        },
    )


def _fit(
    training: Training,
    storage: Storage,
    tracked: TrainingRun,
    worker: Worker,
    config: dict[str, Any],
    compute: Compute,
) -> Storage:
    with Progress(training.stage, "steps", training.num_steps) as progress:
        recorder = Recorder(tracked, progress)
        checkpoint = distributed.fit(
            worker,
            config,
            name=config["fingerprint"][:16],
            storage=storage,
            workers=training.workers,
            compute=compute,
            elastic_batch=training.elastic_batch,
            listen=recorder.listen,
        )
        recorder.finish()
        return checkpoint


class Recorder:
    """Show each point of the history at once; log it and its picture when a checkpoint covers it.

    Not before: a training that goes back to its last checkpoint makes the steps since then again,
    on a GPU with other last bits, and MLflow would keep both. What MLflow cannot take, since its
    server is away, is kept and offered again.
    """

    def __init__(self, tracked: TrainingRun, progress: Progress) -> None:
        self._tracked, self._progress = tracked, progress
        self._waiting: list[HistoryPoint] = []
        self._pictures: dict[int, Picture] = {}  # by their step
        self._covered_step = -1.0

    def listen(self, news: News) -> None:
        for point in news.points:
            self._waiting = [known for known in self._waiting if known["step"] < point["step"]]
            self._waiting.append(point)
        self._pictures |= {picture.step: picture for picture in news.pictures}
        if news.points:
            last = news.points[-1]
            told = f"loss {last['loss']:.4g}, {last['images_per_s']:.3g} images/s"
            self._progress.show(last["step"], told)
        if news.covered_step is not None:
            self._covered_step = max(self._covered_step, news.covered_step)
        covered = [point for point in self._waiting if point["step"] <= self._covered_step]
        with _checkpoint_kept():
            if covered and self._tracked.offer_points(covered):
                self._waiting = self._waiting[len(covered) :]
            for step in [step for step in self._pictures if step <= self._covered_step]:
                if self._tracked.offer_picture(*self._pictures[step]):
                    del self._pictures[step]

    def finish(self) -> None:
        """Log the pictures that are left: the training has ended, so they are covered."""
        with _checkpoint_kept():
            for picture in self._pictures.values():
                self._tracked.log_picture(*picture)


@contextmanager
def _checkpoint_kept() -> Iterator[None]:
    """Say, when MLflow is away for good, that the work is not."""
    try:
        yield
    except TrackingError as error:
        raise TrainingError(
            f"{error}: the training ends, its checkpoint is kept; the same command goes on from it"
        ) from error
