"""Find a trained folder by what people call it: a path, a registered model, an MLflow run."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from components.runtime import tracking
from components.weights.manifest import RESTORER

_RUN = re.compile(r"(?:runs:/)?([0-9a-f]{32})(?:/model)?/?")
_REGISTERED = re.compile(r"models:/[^/@]+(?:@[^/@]+|/\d+)")
# MLflow's own way with a server that is away would take minutes.
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}


@dataclass(frozen=True)
class TrainedModel:
    """A trained folder, and the folders that came with it of what it names by hash."""

    folder: Path
    hints: tuple[Path, ...] = ()


def locate(model: str, downloads: Path) -> TrainedModel:
    """Give a trained folder that is there, or download it from MLflow.

    Args:
        model: a folder, `models:/NAME@ALIAS`, `models:/NAME/VERSION`, `runs:/ID/model`, or a run's
            id.
        downloads: an existing folder, for what is not here.

    Raises: ValueError saying what was looked for where, and what to do.
    """
    if Path(model).is_dir():
        return _described(model, Path(model))
    if _REGISTERED.fullmatch(model):
        uri = model
    elif run := _RUN.fullmatch(model):
        uri = f"runs:/{run[1]}/model"
    else:
        raise ValueError(
            f"{model!r} is no folder here, and no name of MLflow's: give a trained folder, "
            "models:/NAME@ALIAS, models:/NAME/VERSION or runs:/ID/model"
        )
    return _described(model, _download(uri, downloads))


def _download(uri: str, downloads: Path) -> Path:
    if tracking.uri() is None and not Path("mlflow.db").is_file():
        raise ValueError(
            f"{uri} cannot be looked up: {tracking.URI_VARIABLE} is not set and there is no "
            "mlflow.db here: set it, or name a trained folder"
        )
    for name, value in _PATIENCE.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(downloads)))
    except (MlflowException, OSError) as error:
        first_line = str(error).partition("\n")[0]
        raise ValueError(
            f"{uri} is not at {mlflow.get_tracking_uri()} ({first_line}): look which models there "
            f"are with 'make mlflow', set {tracking.URI_VARIABLE}, or name a trained folder"
        ) from error


def _described(model: str, folder: Path) -> TrainedModel:
    if not (folder / RESTORER).is_file():
        raise ValueError(
            f"{model!r} holds no {RESTORER}: name a folder that 'train' or 'restorer' made, such "
            "as models/sd21-sdfm"
        )
    return TrainedModel(folder, tuple(sorted(folder.glob("needs/*"))))
