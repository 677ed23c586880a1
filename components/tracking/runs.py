"""MLflow: one run per training, found again by the training's fingerprint, so it is never split.

Only the driver writes here: a worker may be lost at any moment. While a server is away for a while,
no point of a history is lost: see `components.tracking.outages`.
"""

import logging
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from components.git import Commit
from components.history import HistoryPoint
from components.tracking import artifacts, logged_models, presented
from components.tracking.client import (
    LARGEST_BATCH,
    URI_VARIABLE,
    log_metrics,
    open_client,
    time_to_transfer,
)
from components.tracking.outages import Server

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun

log = logging.getLogger(__name__)

EXPERIMENT = "hdrface"
FINGERPRINT_TAG = "hdrface.fingerprint"
MODEL_PATH = "model"
GALLERY_PATH = "gallery"
PROTOCOLS_FILE = "protocols.json"
VALIDATION_PATH = "validation"
LINEAGE_PATH = "lineage.json"
_LONGEST_PARAM = 6000  # characters, MLflow's limit
_BEGIN_LIMIT_S = 8.0  # nothing is lost yet: an early error is better


class TrainingRun:
    """The MLflow run of one training; `begin` makes one.

    All methods but `fail` raise TrackingError when the server refuses or is away for good.
    """

    def __init__(
        self, run_id: str, client: "MlflowClient", server: Server, last_step: int = -1
    ) -> None:
        self.id = run_id
        self._client, self._server = client, server
        self._last_step = last_step  # the last one that MLflow has
        self._unanswered_since_ms: int | None = None  # points were sent, but no answer came

    @classmethod
    def begin(
        cls,
        fingerprint: str,
        *,
        name: str,
        params: Mapping[str, Any],
        source: str = "",
        commit: Commit | None = None,
        inputs: Mapping[str, str] | None = None,
        lineage: Mapping[str, Any] | None = None,
    ) -> Self:
        """Continue the unfinished run of this fingerprint, or begin one.

        Args:
            fingerprint: of the training, from all that decides its result.
            name: shown in the UI.
            params: nested; MLflow gets `optimization.learning_rate` and the like.
            source: what trains, the UI's column `Source`.
            commit: of the sources.
            inputs: fingerprints of what it learns from, by name: the UI's column `Dataset`.
            lineage: the rest that one may want to know; stored as `lineage.json`.

        Raises: TrackingError within seconds if the server does not answer; ValueError if
            `MLFLOW_TRACKING_URI` has a password in it.
        """
        client = open_client()
        server = Server(client.tracking_uri)

        def found_or_made() -> tuple[str, int]:
            run_id = _unfinished(client, fingerprint) or _create(client, fingerprint, name)
            client.update_run(run_id, status="RUNNING")
            _set_tags(client, run_id, presented.source_tags(source, commit))
            client.log_inputs(run_id, presented.datasets(inputs or {}))
            _log_params(client, run_id, params)
            if lineage:
                client.log_dict(run_id, dict(lineage), LINEAGE_PATH)
            return run_id, _last_step(client, run_id)

        run_id, last_step = server.insist(found_or_made, _BEGIN_LIMIT_S)
        goes_on = f" goes on after step {last_step}" if last_step >= 0 else ""
        log.info("MLflow run %s%s", run_id, goes_on)
        return cls(run_id, client, server, last_step)

    def log_points(self, points: Sequence[HistoryPoint]) -> None:
        """Write points of the history by their `step`; those that MLflow has already are left out.

        Each transaction has whole points, so a kill never leaves half a point.
        """
        self._server.insist(lambda: self._log_points(points))

    def offer_points(self, points: Sequence[HistoryPoint]) -> bool:
        """Write points as `log_points`, but without waiting for a server: offer them again later.

        Returns: whether the points are written.
        """
        return self._server.attempt(lambda: self._log_points(points))

    def _log_points(self, points: Sequence[HistoryPoint]) -> None:
        from mlflow.entities import Metric

        if self._unanswered_since_ms is not None:
            # Perhaps only the answer was lost: MLflow would keep each point twice.
            self._last_step = _last_step(self._client, self.id)
        new = [point for point in points if point["step"] > self._last_step]
        for batch in _batches(new):
            # A point that the server is still writing is no second one if it has the same time.
            sent_ms = self._unanswered_since_ms = self._unanswered_since_ms or _now_ms()
            metrics = [
                Metric(key, value, sent_ms, int(point["step"]))
                for point in batch
                for key, value in point.items()
                if key != "step"
            ]
            self._client.log_batch(self.id, metrics=metrics)
            self._unanswered_since_ms = None
            self._last_step = int(batch[-1]["step"])

    def log_picture(self, step: int, png: bytes) -> None:
        """Store a validation's picture as `validation/step-STEP.png`; again is the same file."""
        self._server.insist(lambda: self._log_picture(step, png))

    def offer_picture(self, step: int, png: bytes) -> bool:
        """Store a picture as `log_picture`, but without waiting for a server.

        Returns: whether it is stored.
        """
        return self._server.attempt(lambda: self._log_picture(step, png))

    def _log_picture(self, step: int, png: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder, time_to_transfer():
            file = Path(folder) / f"step-{step:07}.png"
            file.write_bytes(png)
            self._client.log_artifact(self.id, str(file), VALIDATION_PATH)

    def log_model(self, folder: Path) -> None:
        """Store the trained folder (safetensors and JSON) as the artifact `model`.

        It is also a model in MLflow's list of models, with the scores of its validations. Log all
        points before. An evaluation adds its scores.
        """

        def upload() -> None:
            with time_to_transfer():
                artifacts.store_folder(self._client, self.id, folder, MODEL_PATH)
            files = f"runs:/{self.id}/{MODEL_PATH}"
            logged_models.enter(self._client, self.id, files, last_step=max(self._last_step, 0))

        self._server.insist(upload)

    def finish(self) -> None:
        self._server.insist(lambda: self._client.set_terminated(self.id, "FINISHED"))

    def fail(self) -> None:
        """Mark the run as failed; when the same training runs again, it continues this run.

        Raises nothing: it is called because of another error, which must not be hidden.
        """
        try:
            self._client.set_terminated(self.id, "FAILED")
        except Exception as error:  # noqa: BLE001
            log.warning("MLflow run %s stays as it is: %s", self.id, type(error).__name__)


def run_of(fingerprint: str) -> str | None:
    """Find the run of a training: the latest finished one, otherwise the latest.

    Raises: TrackingError if the server refuses or is away for good; ValueError as `begin`.
    """
    client = open_client()
    runs = Server(client.tracking_uri).insist(lambda: _runs(client, fingerprint))
    finished = [run for run in runs if run.info.status == "FINISHED"]
    found = next(iter([*finished, *runs]), None)
    return found.info.run_id if found else None


def log_evaluation(
    run_id: str,
    metrics: Mapping[str, float],
    pictures: Sequence[Path],
    description: str = "",
    protocols: Mapping[str, Mapping[str, Any] | str] | None = None,
) -> None:
    """Write an evaluation into the run of its training: metrics, and pictures under `gallery`.

    The metrics are those of the run's model as well.

    The description, Markdown, is shown on the run's page, with the pictures below.
    `protocols.json` says how each metric was measured.

    Raises: as `run_of`.
    """
    from mlflow.entities import Metric

    client = open_client()

    def write() -> None:
        known = client.get_run(run_id).data.metrics
        now, model = _now_ms(), logged_models.id_of(client, run_id)
        # A repeated evaluation has the same values; MLflow would show each of them twice.
        new = [
            Metric(key, value, now, 0, model_id=model)
            for key, value in metrics.items()
            if known.get(key) != value
        ]
        shown = (presented.picture(run_id, f"{GALLERY_PATH}/{one.name}") for one in pictures)
        client.set_tag(run_id, presented.DESCRIPTION_TAG, "\n\n".join([description, *shown]))
        log_metrics(client, run_id, new)
        with time_to_transfer():
            for picture in pictures:
                client.log_artifact(run_id, str(picture), GALLERY_PATH)
            if protocols:
                client.log_dict(run_id, dict(protocols), PROTOCOLS_FILE)

    Server(client.tracking_uri).insist(write)


def download_model(run_id: str, folder: Path) -> Path:
    """Fetch the artifact `model` of a run into a folder, unless it lies here; return its place.

    Raises: ValueError if there is no such run, or it has no model; otherwise as `run_of`.
    """
    from mlflow.exceptions import MlflowException

    client = open_client()

    def download() -> Path:
        if (here := artifacts.folder_of(client, run_id)) is not None:
            if not (here / MODEL_PATH).is_dir():
                raise FileNotFoundError(f"{here / MODEL_PATH} is missing")
            return here / MODEL_PATH
        with time_to_transfer():
            return Path(client.download_artifacts(run_id, MODEL_PATH, str(folder)))

    try:
        return Server(client.tracking_uri).insist(download, _BEGIN_LIMIT_S)
    except (MlflowException, OSError) as error:
        first_line = str(error).partition("\n")[0]
        raise ValueError(
            f"run {run_id} at {client.tracking_uri} has no model ({first_line}): find the runs "
            f"that have one with 'make mlflow', or set {URI_VARIABLE} to the server that has it"
        ) from error


def _experiment(client: "MlflowClient") -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(EXPERIMENT)
    if found is not None:
        return str(found.experiment_id)
    try:
        return str(
            client.create_experiment(
                EXPERIMENT,
                _artifact_location(client.tracking_uri),
                tags=presented.EXPERIMENT_TAGS,
            )
        )
    except MlflowException:
        # Another training made it first.
        found = client.get_experiment_by_name(EXPERIMENT)
        if found is None:
            raise
        return str(found.experiment_id)


def _artifact_location(uri: str) -> str | None:
    """Return where artifacts lie: beside a SQLite file; a server decides itself."""
    scheme = "sqlite:///"
    if not uri.startswith(scheme):
        return None
    return (Path(uri.removeprefix(scheme)).absolute().parent / "mlartifacts").as_uri()


def _runs(client: "MlflowClient", fingerprint: str) -> list["MlflowRun"]:
    """Find the runs of a training, latest first."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return []
    return list(
        client.search_runs(
            [experiment.experiment_id],
            filter_string=f"tags.`{FINGERPRINT_TAG}` = '{fingerprint}'",
            order_by=["attributes.start_time DESC"],
        )
    )


def _unfinished(client: "MlflowClient", fingerprint: str) -> str | None:
    unfinished = [run for run in _runs(client, fingerprint) if run.info.status != "FINISHED"]
    return str(unfinished[0].info.run_id) if unfinished else None


def find_or_create(client: "MlflowClient", fingerprint: str, *, name: str) -> str:
    """Return the id of the run with this fingerprint; make one if there is none."""
    found = _runs(client, fingerprint)
    return str(found[0].info.run_id) if found else _create(client, fingerprint, name)


def _create(client: "MlflowClient", fingerprint: str, name: str) -> str:
    run = client.create_run(_experiment(client), run_name=name, tags={FINGERPRINT_TAG: fingerprint})
    return str(run.info.run_id)


def _last_step(client: "MlflowClient", run_id: str) -> int:
    """Find the step of the last point that MLflow has; -1 without one."""
    return max((metric.step for metric in client.get_metric_history(run_id, "loss")), default=-1)


def _now_ms() -> int:
    return int(time.time() * 1000)


def _set_tags(client: "MlflowClient", run_id: str, tags: Mapping[str, str]) -> None:
    from mlflow.entities import RunTag

    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])


def _log_params(client: "MlflowClient", run_id: str, params: Mapping[str, Any]) -> None:
    """Write the parameters that are missing; they are part of the fingerprint and do not change."""
    from mlflow.entities import Param

    known = client.get_run(run_id).data.params
    flat = [
        Param(key, str(value)[:_LONGEST_PARAM])
        for key, value in flattened(params)
        if key not in known
    ]
    for start in range(0, len(flat), 100):  # MLflow's limit per call
        client.log_batch(run_id, params=flat[start : start + 100])


def flattened(params: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Return `("optimization.steps", 200)` for `{"optimization": {"steps": 200}}`."""
    for key, value in params.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _batches(points: Sequence[HistoryPoint]) -> Iterator[list[HistoryPoint]]:
    """Cut points into lists of at most `LARGEST_BATCH` metrics; never within a point."""
    batch: list[HistoryPoint] = []
    size = 0
    for point in points:
        if batch and size + len(point) > LARGEST_BATCH:
            yield batch
            batch, size = [], 0
        batch.append(point)
        size += len(point)
    if batch:
        yield batch
