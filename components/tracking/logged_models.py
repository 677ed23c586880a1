"""A trained model as MLflow shows models: its parameters and its scores, beside the run it is from.

It has no files of its own. They are the artifact `model` of the run, stored once; a tag names it.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel

FILES_TAG = "hdrface.files"
_TYPE = "restorer"
# Parameters of a run that say which model it is: the columns by which MLflow compares models.
_TELLING = ("backbone", "condition", "intermediate", "dinov3", "lora.rank")


def enter(client: "MlflowClient", run_id: str, files: str, *, step: int) -> None:
    """Make the model of a run known under the run's name (`train@sd21-sdfm`), if it is not.

    Args:
        client: of the server.
        run_id: of the training.
        files: where its files are, `runs:/RUN/model`.
        step: after which the training ended.
    """
    from mlflow.entities import LoggedModelOutput

    run = client.get_run(run_id)
    model = _find(client, run_id, run.info.experiment_id)
    if model is None:
        params = {key: run.data.params[key] for key in _TELLING if key in run.data.params}
        model = client.create_logged_model(
            run.info.experiment_id,
            run.info.run_name,
            source_run_id=run_id,
            tags={FILES_TAG: files},
            params=params,
            model_type=_TYPE,
        )
    # What a kill may have left undone.
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
