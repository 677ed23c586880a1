"""Load the model and the other networks that a restoration needs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from components.faces.cutter import MIN_SCORE
from components.faces.detect import open_detector
from components.metrics.identity import IdentityAngle
from components.photographs.background import SuperResolution, lanczos
from components.photographs.face_restorer import FaceRestorer
from components.photographs.options import Tools
from components.photographs.restoration import PhotographRestorer
from components.restorers.by_export import ExportRestorer
from components.restorers.by_folder import PicturesByName
from components.restorers.candidates import Candidates
from components.restorers.catalogue import FOLDER, path_of
from components.restorers.hdrface import HDRFace
from components.restorers.protocol import RestoresFaces
from components.tracking.trained_models import open_restorer
from components.weights.manifest import RESTORER


def load(model: str, tools: Tools, downloads: Path) -> PhotographRestorer:
    """Load the model and the other networks. Raises: ValueError or OSError naming what is wrong."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    detector, angle, upscale = None, None, lanczos
    if tools.detector is not None:
        detector = open_detector(tools.detector, min_score=MIN_SCORE)
    if tools.identity_network is not None:
        angle = IdentityAngle(tools.identity_network)
    if tools.upscaler is not None:
        upscale = SuperResolution(tools.upscaler, device=device)
    how: dict[str, Any] = {"device": torch.device(device), "precision": tools.precision}
    if tools.compile:
        how["compile_for"] = [tools.batch_size]  # the last batch is filled up
    opened = open_restorer(model, downloads, **how, preview=tools.preview)
    firsts = [open_restorer(name, downloads, **how) for name in _first_restorers(tools)]
    restorer = _building_on(opened, firsts, tools, angle)
    faces = FaceRestorer(restorer, batch_size=tools.batch_size)
    said = tools.model_dump_json(exclude={"batch_size"})
    return PhotographRestorer(faces, detector=detector, angle=angle, upscale=upscale, tools=said)


def _building_on(
    restorer: RestoresFaces,
    firsts: Sequence[RestoresFaces],
    tools: Tools,
    angle: IdentityAngle | None,
) -> RestoresFaces:
    """Let a model take first restorations from other restorers, or from several.

    Raises: ValueError if it cannot.
    """
    if tools.choose is not None and len(firsts) <= tools.candidates == 1:
        raise ValueError(
            "--choose is for several first restorations: set --candidates, or name several "
            "restorers with --intermediate"
        )
    if not firsts and tools.candidates == 1:
        return restorer
    if isinstance(restorer, HDRFace | ExportRestorer) and len(firsts) == tools.candidates == 1:
        restorer.build_on(firsts[0])
        return restorer
    if not isinstance(restorer, HDRFace):
        raise ValueError(
            f"{restorer.name} does not choose among first restorations: leave out --intermediate "
            "and --candidates"
        )
    own = [] if restorer.intermediate is None else [restorer.intermediate]
    return Candidates(
        restorer,
        firsts or own,
        draws=tools.candidates,
        choice=tools.choose or "gate",
        angle=angle,
    )


def _first_restorers(tools: Tools) -> list[str]:
    if tools.intermediate is None or _are_pictures(tools.intermediate):
        return []
    return tools.intermediate.split(",")


def given_pictures(model: str, tools: Tools) -> PicturesByName | None:
    """Return the first restorations that come with the photographs, if they do.

    Raises: ValueError or FileNotFoundError naming the folder if it holds none.
    """
    if tools.intermediate is not None and _are_pictures(tools.intermediate):
        if tools.candidates > 1:
            raise ValueError("--candidates needs a first restorer, and --intermediate has pictures")
        return PicturesByName(Path(tools.intermediate))
    if model.startswith(f"{FOLDER}:"):  # the results are the pictures themselves
        return PicturesByName(path_of(model))
    return None


def _are_pictures(intermediate: str) -> bool:
    folder = Path(intermediate)
    return folder.is_dir() and not (folder / RESTORER).is_file()
