"""Score a model on a folder of faces: degrade, restore, compare.

It needs only the trained folder, what that names by hash, and the faces. The degradation is the one
that the model was trained with, according to its lineage. For the same faces, seed and recipe, the
scores are those of the stage `evaluate`.
"""

import tempfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import ValidationError

from components.degradation import recipe as degradation
from components.degradation.recipe import DegradationParams
from components.encoders.identity import find_network
from components.faces import landmarks
from components.faces.cutter import Face, FaceCutter
from components.faces.source import UnreadableError, open_source
from components.hashes import sha256_of
from components.metrics.catalogue import open_metrics
from components.reporting import comparison
from components.reporting.comparison import Comparison, FaceScores, Pair
from components.restorers.catalogue import is_of_others
from components.restorers.protocol import RestoresFaces
from components.tracking.trained_models import locate, open_restorer
from components.weights.manifest import RESTORER, Description

METRICS = ("psnr", "ssim", "identity_angle")
BOOTSTRAP_SAMPLES = 10_000
BATCH_SIZE = 8


class Rejected(NamedTuple):
    """A picture, or a face in it, that could not be used, and why."""

    id: str
    reason: str


def run(
    model: str,
    hq: Path,
    *,
    seed: int,
    recipe: DegradationParams | None = None,
    metrics: Sequence[str] = METRICS,
    identity_network: Path | None = None,
    batch_size: int = BATCH_SIZE,
) -> dict[str, Any]:
    """Score a restorer on a folder of faces; return the content of a metrics file.

    Square pictures count as FFHQ-aligned faces; those in the folder's `landmarks.csv` are aligned
    first. `recipe` replaces the degradation that the model was trained with.

    Raises: as `components.tracking.trained_models.open_restorer`; ValueError if no picture can be
    used, or how to degrade is not known.
    """
    with tempfile.TemporaryDirectory() as downloads:
        if recipe is None:
            recipe = recipe_of(model, Path(downloads))
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return _evaluate(
            open_restorer(model, Path(downloads), device=device),
            hq,
            seed=seed,
            recipe=recipe,
            metrics=metrics,
            identity_network=identity_network,
            batch_size=batch_size,
        )


def recipe_of(model: str, downloads: Path) -> DegradationParams:
    """Read from a trained folder's lineage how its training faces were degraded.

    Raises: ValueError if that is not known.
    """
    if is_of_others(model):
        raise ValueError(
            f"{model}: how its training faces were degraded is not known here: give --params FILE, "
            "whose degrade.recipe is used"
        )
    folder = locate(model, downloads).folder
    params = Description.read(folder, RESTORER).content["lineage"].get("params", {})
    recipe = params.get("degrade", {}).get("recipe")
    if recipe is None:
        raise ValueError(
            f"{folder} does not say how its faces were degraded (lineage.params.degrade.recipe): "
            "name a recipe"
        )
    try:
        return DegradationParams.model_validate(recipe)
    except ValidationError as error:
        raise ValueError(f"{folder} was trained with a recipe unknown here: {error}") from error


def _evaluate(
    restorer: RestoresFaces,
    hq: Path,
    *,
    seed: int,
    recipe: DegradationParams,
    metrics: Sequence[str],
    identity_network: Path | None,
    batch_size: int,
) -> dict[str, Any]:
    protocol: dict[str, Any] = {
        "faces": str(hq),
        "size": restorer.size,
        "degradation": recipe.model_dump(mode="json"),
        "degradation_seed": seed,
    }
    if identity_network is not None:
        protocol["identity_network"] = sha256_of(find_network(identity_network))
    opened, unavailable = open_metrics(
        metrics, identity_network=identity_network, device=restorer.device
    )
    compare = Comparison(restorer, opened, device=restorer.device)
    rejected: list[Rejected] = []
    pairs = _pairs(_faces(hq, restorer.size, rejected), recipe, seed)
    scores = [
        FaceScores(one.pair.face_id, one.pair.variant, one.scores)
        for batch in iter(lambda: list(islice(pairs, batch_size)), [])
        for one in compare(batch)
    ]
    if not scores:
        raise ValueError(
            f"no usable face in {hq}: {len(rejected)} pictures were rejected, "
            f"{rejected[0].id}: {rejected[0].reason}"
        )
    result = comparison.result(
        {"name": restorer.name, "fingerprint": restorer.fingerprint},
        protocol,
        scores,
        unavailable,
        samples=BOOTSTRAP_SAMPLES,
        seed=seed,
    )
    return {**result, "rejected": [one._asdict() for one in rejected]}


def _pairs(faces: Iterator[Face], recipe: DegradationParams, seed: int) -> Iterator[Pair]:
    """Degrade each face once, as the stage `degrade` makes its first variant."""
    for face in faces:
        drawn = degradation.draw(
            recipe, face.hq.shape[:2], seed=seed, face_id=face.face_id, variant=0
        )
        target, lq = degradation.make_pair(face.hq, drawn, recipe)
        yield Pair(face.face_id, 0, target, lq)


def _faces(folder: Path, size: int, rejected: list[Rejected]) -> Iterator[Face]:
    """Cut the faces of every picture; what cannot be used goes to `rejected`."""
    source = open_source(str(folder))
    given = landmarks.parse(source.text(landmarks.FILE) or ",".join(landmarks.COLUMNS))
    # An aligned square is twice as wide as its face; an enlarged picture would not be the truth.
    cutters = {
        is_given: FaceCutter(size=size, min_face=size // 2, aligned=not is_given, detector=None)
        for is_given in (True, False)
    }
    for picture in source.pictures():
        points = given.get(picture.name, ())
        try:
            data = source.read(picture)
        except UnreadableError as error:
            rejected.append(Rejected(picture.name, str(error)))
            continue
        cut = cutters[bool(points)].cut(picture.name, data, points)
        rejected += [Rejected(picture.name, reason) for reason in cut.reasons]
        yield from cut.faces
