"""How far a model's restorations in int8 are from those in bf16, on faces that lie here.

The two are loaded one after the other: a machine that is checked needs no more memory than bf16
takes. What bf16 restored waits in a temporary folder.
"""

import gc
import platform
import tempfile
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

import numpy as np
import torch

from components import images
from components.degradation.recipe import DegradationParams
from components.images import Image
from components.reporting.evaluation import Case, batches
from components.reporting.face_sets import Rejection
from components.reporting.folder_scores import recipe_of
from components.reporting.given_faces import GivenFaces, Met, Wanted
from components.restorers.catalogue import kind_of
from components.restorers.folder import load_unchecked
from components.restorers.int8_check import Int8Check
from components.restorers.protocol import RestoresFaces
from components.tracking import registry
from components.tracking.trained_models import TrainedModel, locate
from components.weights.manifest import INT8_CHECK, RESTORER, Description
from components.weights.precision import InferencePrecision

_REGISTERED = "models:/"
_LIBRARIES = ("torch", "diffusers", "transformers")


def check(
    model: str,
    hq: Path,
    *,
    seed: int,
    recipe: DegradationParams | None = None,
    batch_size: int,
) -> tuple[Int8Check, list[Rejection]]:
    """Restore faces in bf16 and in int8, and note in the trained folder how far apart they are.

    Args:
        model: a trained folder, or a registered version, with which the note is stored as well.
        hq: true faces, a folder or a table; they are degraded first, once each.
        seed: of the degradations.
        recipe: of the degradations, in place of what the model was trained with.
        batch_size: faces that are restored at once.

    Returns: what was noted, and pictures that are no faces, with reasons.

    Raises: ValueError or OSError naming what is missing, that no face can be used or restored, or a
        model that cannot be checked.
    """
    if not (Path(model).is_dir() or model.startswith(_REGISTERED)):
        raise ValueError(
            f"{model} cannot be checked: give a trained folder, models:/NAME@ALIAS or "
            "models:/NAME/VERSION, where the result is noted"
        )
    with tempfile.TemporaryDirectory() as beside:
        found = locate(model, Path(beside))
        described = Description.read(found.folder, RESTORER)
        if kind_of(described) is not None:
            raise ValueError(f"{model} is another project's restorer: it computes in float32")
        recipe = recipe or recipe_of(model, Path(beside))
        faces = GivenFaces(Wanted(hq=hq, models=(model,)), recipe, seed)
        psnrs, rejected = _compare(found, faces, Path(beside), batch_size)
    if not psnrs:
        raise ValueError(f"{hq} has no usable face: {len(rejected)} pictures were rejected")
    done = Int8Check(
        fingerprint=described.fingerprint,
        faces=len(psnrs),
        mean_psnr=float(np.mean(psnrs)),
        worst_psnr=min(psnrs),
        versions={
            "python": platform.python_version(),
            **{library: metadata.version(library) for library in _LIBRARIES},
        },
    )
    done.write(found.folder)
    if not Path(model).is_dir():
        registered, version = registry.find(model)
        registered.keep_check(version, found.folder / INT8_CHECK)
    return done, rejected


def _compare(
    found: TrainedModel, faces: GivenFaces, beside: Path, batch_size: int
) -> tuple[list[float], list[Rejection]]:
    """Return the PSNR of each face, and the pictures that are no faces."""
    for number, restored in enumerate(_restored(found, "bf16", faces, Met(), batch_size)):
        np.save(beside / f"{number}.npy", restored)
    met = Met()
    psnrs = [
        _psnr(restored, np.load(beside / f"{number}.npy"))
        for number, restored in enumerate(_restored(found, "int8", faces, met, batch_size))
    ]
    return psnrs, met.rejected


def _restored(
    found: TrainedModel,
    precision: InferencePrecision,
    faces: GivenFaces,
    met: Met,
    batch_size: int,
) -> Iterator[Image]:
    """Load the model in one precision and restore all faces, in order; then let it go."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    restorer = load_unchecked(found.folder, found.hints, device=device, precision=precision)
    cases = faces.cases(faces.names(), restorer.size, met)
    for batch in batches(cases, batch_size):
        yield from _restore(restorer, batch)
    del restorer
    gc.collect()
    torch.cuda.empty_cache()


def _restore(restorer: RestoresFaces, batch: Sequence[Case]) -> list[Image]:
    lqs = [case.lq for case in batch if case.lq is not None]
    face_ids, variants = [case.face_id for case in batch], [case.variant for case in batch]
    try:
        done = restorer.restore(images.to_tensor(lqs, restorer.device), face_ids, variants)
    except ArithmeticError as error:
        raise ValueError(f"a face of {', '.join(face_ids)} was not restored: {error}") from error
    return images.from_tensor(done.restored_B3HW)


def _psnr(one: Image, other: Image) -> float:
    """Return the PSNR of two pictures in dB, 80 at most, as pyiqa does: a mean exists always."""
    difference = (one.astype(np.float64) - other) / 255
    return float(-10 * np.log10(np.mean(difference**2) + 1e-8))
