"""Find a restorer by its name: a path, a registered model, an MLflow run, another's checkpoint."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from components.restorers.catalogue import is_of_others, open_of_others, refuse_preview
from components.tracking import client, registry, runs
from components.weights.manifest import RESTORER
from components.weights.precision import InferencePrecision
from components.weights.store import carried

if TYPE_CHECKING:
    import torch

    from components.restorers.protocol import RestoresFaces
    from components.restorers.together import Together

_RUN = re.compile(r"(?:runs:/)?([0-9a-f]{32})(?:/model)?/?")
_REGISTERED = "models:/"


@dataclass(frozen=True)
class TrainedModel:
    """A trained folder, and folders that came with it and hold what it names by hash."""

    folder: Path
    hints: tuple[Path, ...] = ()


def locate(
    model: str, downloads: Path, *, precision: InferencePrecision = "float32"
) -> TrainedModel:
    """Find a trained folder on this machine, or fetch it from MLflow.

    A registered version is kept in this machine's store; a run's model goes to `downloads`.

    Args:
        model: a folder, `models:/NAME@ALIAS`, `models:/NAME/VERSION`, `runs:/ID/model`, or a run's
            id.
        downloads: an existing folder, for models that no store keeps.
        precision: with `int8`, a registered version comes with its check, if it has one.

    Raises: ValueError or OSError that says what was not found where, and what to do; TrackingError
        if the server refuses or is away.
    """
    if Path(model).is_dir():
        return _described(model, Path(model))
    run = _RUN.fullmatch(model)
    if run is None and not model.startswith(_REGISTERED):
        raise ValueError(
            f"{model!r} is neither a folder here nor a name in MLflow: give a trained folder, "
            "models:/NAME@ALIAS, models:/NAME/VERSION, runs:/ID/model, spandrel:FILE, onnx:FILE "
            "or folder:DIR"
        )
    if client.uri() is None and not client.database().is_file():  # MLflow would make the file
        raise ValueError(
            f"{model} cannot be looked up: {client.URI_VARIABLE} is not set and there is no "
            f"{client.database().name} in {client.database().parent}: set it, or name a trained "
            "folder"
        )
    if run is None:
        registered, version = registry.find(model)
        return TrainedModel(registered.fetch(version, precision))
    return _described(model, runs.download_model(run[1], downloads))


def open_restorer(
    model: str,
    downloads: Path,
    *,
    device: "torch.device",
    precision: InferencePrecision = "float32",
    compile_for: Sequence[int] = (),
    together: "Together | None" = None,
    preview: Path | None = None,
) -> "RestoresFaces":
    """Load a restorer by its name.

    Args:
        model: as for `locate`, or `spandrel:FILE` (GFPGAN, RestoreFormer, CodeFormer),
            `onnx:FILE` or `folder:DIR` (results), of other projects.
        downloads: an existing folder, for models that no store keeps.
        device: where it computes.
        precision: of our own; those of other projects compute in float32.
        compile_for: batch sizes that our own are compiled for.
        together: what our own have in common, they load and compute once.
        preview: the folder of a tiny decoder, for rough results.

    Raises: as `locate`; ValueError if a checkpoint is of another kind, or there is no tiny decoder
        for the restorer.
    """
    if is_of_others(model):
        refuse_preview(model, preview)
        return open_of_others(model, device=device)
    from components.restorers.folder import load_restorer

    found = locate(model, downloads, precision=precision)
    return load_restorer(
        found.folder,
        found.hints,
        device=device,
        precision=precision,
        compile_for=compile_for,
        together=together,
        preview=preview,
    )


def _described(model: str, folder: Path) -> TrainedModel:
    if not (folder / RESTORER).is_file():
        raise ValueError(
            f"{model!r} holds no {RESTORER}: name a folder that 'train' or 'restorer' made, such "
            "as models/sd21-sdfm"
        )
    return TrainedModel(folder, carried(folder))
