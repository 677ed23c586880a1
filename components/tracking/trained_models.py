"""Find a trained folder by what people call it: a path, a registered model, an MLflow run."""

import re
from dataclasses import dataclass
from pathlib import Path

from components.tracking import client, registry, runs
from components.weights.manifest import RESTORER

_RUN = re.compile(r"(?:runs:/)?([0-9a-f]{32})(?:/model)?/?")
_REGISTERED = "models:/"


@dataclass(frozen=True)
class TrainedModel:
    """A trained folder, and the folders that came with it of what it names by hash."""

    folder: Path
    hints: tuple[Path, ...] = ()


def locate(model: str, downloads: Path) -> TrainedModel:
    """Give a trained folder that is there, or bring it from MLflow.

    A registered version comes into this machine's store, once; a run's model into `downloads`.

    Args:
        model: a folder, `models:/NAME@ALIAS`, `models:/NAME/VERSION`, `runs:/ID/model`, or a run's
            id.
        downloads: an existing folder, for what is in no store.

    Raises: ValueError or OSError saying what was looked for where, and what to do; TrackingError if
        the server refuses or is away.
    """
    if Path(model).is_dir():
        return _described(model, Path(model))
    run = _RUN.fullmatch(model)
    if run is None and not model.startswith(_REGISTERED):
        raise ValueError(
            f"{model!r} is no folder here, and no name of MLflow's: give a trained folder, "
            "models:/NAME@ALIAS, models:/NAME/VERSION or runs:/ID/model"
        )
    if client.uri() is None and not Path("mlflow.db").is_file():  # MLflow would make one
        raise ValueError(
            f"{model} cannot be looked up: {client.URI_VARIABLE} is not set and there is no "
            "mlflow.db here: set it, or name a trained folder"
        )
    if run is None:
        registered, version = registry.find(model)
        return TrainedModel(registered.fetch(version))
    return _described(model, runs.download_model(run[1], downloads))


def _described(model: str, folder: Path) -> TrainedModel:
    if not (folder / RESTORER).is_file():
        raise ValueError(
            f"{model!r} holds no {RESTORER}: name a folder that 'train' or 'restorer' made, such "
            "as models/sd21-sdfm"
        )
    return TrainedModel(folder, tuple(sorted(folder.glob("needs/*"))))
