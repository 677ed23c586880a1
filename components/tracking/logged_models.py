"""A trained model as MLflow shows models: its parameters and its scores, beside the run it is from.

It has no files of its own. They are the artifact `model` of the run, stored once; a tag names it.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from components.history import BEST_STEP, VALIDATION
from components.tracking.client import log_metrics

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Metric, Run

FILES_TAG = "hdrface.files"
STEP = "step"  # the parameter of a model that says after which step of the training it was kept
KEPT = "kept_"  # how the names of the validation's scores at that step begin
_TYPE = "restorer"
# Parameters of a run that say which model it is: the columns by which MLflow compares models.
_TELLING = (
    *("backbone", "condition", "intermediate", "dinov3", "lora.rank"),
    "validation.keep_best",  # by which metric the step was chosen; "None": it is the last step
)


def enter(client: "MlflowClient", run_id: str, files: str, *, last_step: int) -> None:
    """Make the model of a run known under the run's name (`train@sd21-sdfm`), if it is not.

    It gets the scores of every validation (`validation_psnr`), at the steps where they were
    measured, and those of the step whose model it is as `kept_psnr`: models are compared by these.

    Args:
        client: of the server.
        run_id: of the training, which has all its points.
        files: where its files are, `runs:/RUN/model`.
        last_step: of the training; the model is that of the best step if a validation chose one.
    """
    from mlflow.entities import LoggedModelOutput

    run = client.get_run(run_id)
    step = int(run.data.metrics.get(BEST_STEP, last_step))
    model = _find(client, run_id, run.info.experiment_id)
    if model is None:
        params = {key: run.data.params[key] for key in _TELLING if key in run.data.params}
        model = client.create_logged_model(
            run.info.experiment_id,
            run.info.run_name,
            source_run_id=run_id,
            tags={FILES_TAG: files},
            params={**params, STEP: str(step)},
            model_type=_TYPE,
        )
    # What a kill may have left undone.
    log_metrics(client, run_id, [*_validations(client, run, model.model_id, kept_step=step)])
    if str(model.status) != "READY":
        client.finalize_logged_model(model.model_id, "READY")
    if run.outputs is None or not run.outputs.model_outputs:
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step)])


def id_of(client: "MlflowClient", run_id: str) -> str | None:
    """Return the id of the model of a run; None if the run has none, as before there were any."""
    model = _find(client, run_id, client.get_run(run_id).info.experiment_id)
    return None if model is None else str(model.model_id)


def _find(client: "MlflowClient", run_id: str, experiment: str) -> "LoggedModel | None":
    found = client.search_logged_models(
        [experiment], filter_string=f"source_run_id = '{run_id}'", max_results=1
    )
    return next(iter(found), None)


def _validations(
    client: "MlflowClient", run: "Run", model: str, *, kept_step: int
) -> "Iterator[Metric]":
    """Give the validations' scores in a run as those of its model.

    MLflow writes every score of a model into a run too. Each keeps the time that it has in the run:
    MLflow knows it by that, and has it once in the run and once in the model, however often it is
    written.
    """
    from mlflow.entities import Metric

    for name in [name for name in run.data.metrics if name.startswith(VALIDATION)]:
        for score in client.get_metric_history(run.info.run_id, name):
            yield Metric(name, score.value, score.timestamp, score.step, model_id=model)
            if score.step == kept_step:
                kept = KEPT + name.removeprefix(VALIDATION)
                yield Metric(kept, score.value, score.timestamp, score.step, model_id=model)
