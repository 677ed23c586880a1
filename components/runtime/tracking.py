"""MLflow: a run a training, found again by the training's identity, so that it is never split.

`MLFLOW_TRACKING_URI` says where; without it, `mlflow.db` and `mlartifacts/` in the working
directory. Only the driver writes here: a worker may be lost at any moment.
"""

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun

log = logging.getLogger(__name__)

EXPERIMENT = "hdrface"
IDENTITY_TAG = "hdrface.identity"
MODEL_PATH = "model"
GALLERY_PATH = "gallery"
_LONGEST_PARAM = 6000  # characters, MLflow's limits
_LARGEST_BATCH = 1000  # metrics
_QUIET = ("alembic", "mlflow")

Point = Mapping[str, float]


@dataclass
class TrainingRun:
    """The MLflow run of one training; `begin` is the way to get one."""

    id: str
    _client: "MlflowClient"
    _last_step: int = field(default=-1)  # of what MLflow has already

    @classmethod
    def begin(
        cls, identity: str, *, name: str, params: Mapping[str, Any], tags: Mapping[str, str]
    ) -> Self:
        """Go on with the unfinished run of this identity, or begin one.

        Args:
            identity: of the training, from all that decides its result.
            name: shown in the UI.
            params: nested; MLflow gets `optimization.learning_rate` and the like.
            tags: beside the identity's.
        """
        client = _client()
        unfinished = [run for run in _runs(client, identity) if run.info.status != "FINISHED"]
        if unfinished:
            run_id = unfinished[0].info.run_id
            client.update_run(run_id, status="RUNNING")
            # Parameters cannot change, and need not: they are part of the identity.
            _set_tags(client, run_id, tags)
            last_step = max(
                (metric.step for metric in client.get_metric_history(run_id, "loss")), default=-1
            )
            log.info("MLflow run %s goes on after step %d", run_id, max(last_step, 0))
            return cls(run_id, client, last_step)
        run = client.create_run(
            _experiment(client), run_name=name, tags={IDENTITY_TAG: identity, **tags}
        )
        _log_params(client, run.info.run_id, params)
        log.info("MLflow run %s", run.info.run_id)
        return cls(run.info.run_id, client)

    def log_points(self, points: Sequence[Point]) -> None:
        """Write points of the history by their `step`; what MLflow has already is left out.

        Whole points in one transaction each time, so a kill leaves no point in halves.
        """
        from mlflow.entities import Metric

        new = [point for point in points if point["step"] > self._last_step]
        now = int(time.time() * 1000)
        for batch in _batches(new):
            metrics = [
                Metric(key, value, now, int(point["step"]))
                for point in batch
                for key, value in point.items()
                if key != "step"
            ]
            self._client.log_batch(self.id, metrics=metrics)
            self._last_step = int(batch[-1]["step"])

    def log_model(self, folder: Path) -> None:
        """Store the trained folder (safetensors and JSON) as the artifact `model`."""
        self._client.log_artifacts(self.id, str(folder), MODEL_PATH)

    def finish(self) -> None:
        self._client.set_terminated(self.id, "FINISHED")

    def fail(self) -> None:
        """Mark the run as failed; the same training, run again, goes on with it."""
        self._client.set_terminated(self.id, "FAILED")


def run_of(identity: str) -> str | None:
    """Find the run of a training: a finished one before others, the latest first."""
    runs = _runs(_client(), identity)
    finished = [run for run in runs if run.info.status == "FINISHED"]
    found = next(iter([*finished, *runs]), None)
    return found.info.run_id if found else None


def log_evaluation(run_id: str, metrics: Mapping[str, float], pictures: Sequence[Path]) -> None:
    """Write an evaluation into the run of its training: metrics, and pictures under `gallery`."""
    from mlflow.entities import Metric

    client = _client()
    known = client.get_run(run_id).data.metrics
    now = int(time.time() * 1000)
    # An evaluation that is repeated says the same; MLflow would show each value twice.
    new = [Metric(key, value, now, 0) for key, value in metrics.items() if known.get(key) != value]
    for start in range(0, len(new), _LARGEST_BATCH):
        client.log_batch(run_id, metrics=new[start : start + _LARGEST_BATCH])
    for picture in pictures:
        client.log_artifact(run_id, str(picture), GALLERY_PATH)


def _client() -> "MlflowClient":
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "1")
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    from mlflow import MlflowClient

    for name in _QUIET:  # importing mlflow sets the level of its own logger
        logging.getLogger(name).setLevel(logging.WARNING)
    # Absolute: MLflow keeps one connection a name, wherever the process has gone since.
    default = f"sqlite:///{Path('mlflow.db').absolute()}"
    return MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or default)


def _experiment(client: "MlflowClient") -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(EXPERIMENT)
    if found is not None:
        return str(found.experiment_id)
    try:
        return str(client.create_experiment(EXPERIMENT, _artifact_location(client.tracking_uri)))
    except MlflowException:
        # Another training was faster.
        found = client.get_experiment_by_name(EXPERIMENT)
        if found is None:
            raise
        return str(found.experiment_id)


def _artifact_location(uri: str) -> str | None:
    """Keep artifacts beside a SQLite file; a server decides for itself."""
    scheme = "sqlite:///"
    if not uri.startswith(scheme):
        return None
    return (Path(uri.removeprefix(scheme)).absolute().parent / "mlartifacts").as_uri()


def _runs(client: "MlflowClient", identity: str) -> list["MlflowRun"]:
    """Give the runs of a training, latest first."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return []
    return list(
        client.search_runs(
            [experiment.experiment_id],
            filter_string=f"tags.`{IDENTITY_TAG}` = '{identity}'",
            order_by=["attributes.start_time DESC"],
        )
    )


def _set_tags(client: "MlflowClient", run_id: str, tags: Mapping[str, str]) -> None:
    from mlflow.entities import RunTag

    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])


def _log_params(client: "MlflowClient", run_id: str, params: Mapping[str, Any]) -> None:
    from mlflow.entities import Param

    flat = [Param(key, str(value)[:_LONGEST_PARAM]) for key, value in flattened(params)]
    for start in range(0, len(flat), 100):  # MLflow's limit a call
        client.log_batch(run_id, params=flat[start : start + 100])


def flattened(params: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Give `("optimization.steps", 200)` for `{"optimization": {"steps": 200}}`."""
    for key, value in params.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _batches(points: Sequence[Point]) -> Iterator[list[Point]]:
    """Cut points into lists of at most `_LARGEST_BATCH` metrics; never within a point."""
    batch: list[Point] = []
    size = 0
    for point in points:
        if batch and size + len(point) > _LARGEST_BATCH:
            yield batch
            batch, size = [], 0
        batch.append(point)
        size += len(point)
    if batch:
        yield batch
