"""Where a served model comes from: a folder, a registered model's versions, a checkpoint."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import torch

from components import cluster
from components.metrics.identity import IdentityAngle
from components.photographs.face_restorer import FaceRestorer
from components.restorers.catalogue import fingerprint_of, is_of_others, open_of_others, path_of
from components.restorers.compiled import powers_of_two
from components.restorers.folder import load_restorer
from components.restorers.protocol import RestoresFaces
from components.serving.model import FollowingModel, Version
from components.serving.params import ServeParams
from components.tracking import registry
from components.weights.precision import InferencePrecision
from components.weights.store import open_model

_REGISTERED = "models:/"


def is_registered(source: str) -> bool:
    """Return whether a source names a registered model."""
    return source.startswith(_REGISTERED)


def absolute(source: str) -> str:
    """Return the same source for a process in another folder."""
    if is_registered(source):
        return source
    if is_of_others(source):
        return f"{source.partition(':')[0]}:{path_of(source).absolute()}"
    return str(Path(source).absolute())


def follow(source: str, params: ServeParams, place: cluster.Workplace) -> FollowingModel:
    """Prepare a model that follows a source, in a replica's process."""
    place.enter()
    network = params.identity_network
    return FollowingModel(
        locate=functools.partial(newest, source),
        load=functools.partial(load, source, params),
        min_psnr=params.self_test_psnr,
        angle=None if network is None else IdentityAngle(network),
    )


def newest(source: str) -> Version:
    """Return the version that a source names now. Raises: ValueError, OSError."""
    if is_registered(source):
        model, version = registry.find(source)
        fingerprint = version.tags.get(registry.FINGERPRINT_TAG, "")
        return Version(f"{model.name}/{version.version}", fingerprint, version.run_id)
    if is_of_others(source):
        return Version(path_of(source).stem, fingerprint_of(source))
    if not Path(source).is_dir():
        raise FileNotFoundError(
            f"{source!r} is not a trained folder: train a model, or give models:/NAME@ALIAS, "
            "spandrel:FILE, onnx:FILE or folder:DIR"
        )
    return Version(Path(source).name, open_model(Path(source)).fingerprint)


def load(source: str, params: ServeParams, version: Version) -> FaceRestorer:
    """Load a version of a source, and compile it if asked. Raises: ValueError, OSError."""
    device = torch.device("cuda" if params.model.gpus else "cpu")
    restorer: RestoresFaces
    if is_of_others(source):
        restorer = open_of_others(source, device=device)
    else:
        sizes = powers_of_two(params.max_batch) if params.compile else []
        restorer = load_restorer(
            _fetch(source, version, params.precision),
            device=device,
            precision=params.precision,
            compile_for=sizes,
        )
        _compile_now(restorer, sizes)
    return FaceRestorer(restorer, batch_size=params.max_batch)


def _compile_now(restorer: RestoresFaces, sizes: Sequence[int]) -> None:
    """Restore a batch of each size: else the first requests would wait for minutes."""
    for size in sizes:
        black_B3HW = torch.zeros(size, 3, restorer.size, restorer.size, device=restorer.device)
        first_B3HW = black_B3HW if restorer.intermediates == "given" else None
        restorer.restore(black_B3HW, [""] * size, [0] * size, intermediate_B3HW=first_B3HW)


def _fetch(source: str, version: Version, precision: InferencePrecision) -> Path:
    """Return the folder of a version; download it if necessary."""
    if not is_registered(source):
        return Path(source)
    model, found = registry.find(version.name)
    return model.fetch(found, precision)
