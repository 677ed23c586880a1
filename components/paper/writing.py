"""Make the tables and write them: HTML, Markdown, CSV and LaTeX; look at faces for Fig. 5."""

import tempfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from components import files, images
from components.faces.split import spread
from components.images import Image
from components.paper import page, published, texts
from components.paper.cells import Filled, fill
from components.paper.cost import Costs
from components.paper.heat_maps import FaceTokens, look_at
from components.paper.published import PaperTable
from components.paper.scores import Project, Scores
from components.paper.sources import Sources
from components.params import PARAMS_FILE, Compute, read
from components.reporting.face_sets import open_set
from components.tracking.trained_models import open_restorer

_NAME = "paper"


def project(params: Path = PARAMS_FILE, ablations: Path = Path("reports/ablations")) -> Project:
    """Return where this project's models and scores lie, by `params.yaml` if there is one."""
    values: dict[str, Any] = read(params).get("evaluate", {}) if params.is_file() else {}
    return Project(
        models=Path(values.get("models", "models")),
        scores=Path(values.get("scores", "metrics/models")),
        ablations=ablations,
        compute=Compute.of_command("evaluate", params),
    )


def make(
    tables: Sequence[PaperTable], sources: Sources, project: Project, *, kept: Path
) -> list[Filled]:
    """Fill the tables. What has to be scored or measured for them is kept in `kept`."""
    scores, costs = Scores(sources, project, kept), Costs(sources, project, kept)
    return [fill(table, sources, scores, costs) for table in tables]


def write(tables: Sequence[Filled], folder: Path) -> list[Path]:
    """Write all formats; return the files."""
    source = published.source()
    contents = {
        "html": page.render(tables, source, made_on=datetime.now().astimezone().date()),
        "md": texts.markdown(tables, source),
        "csv": texts.as_csv(tables),
        "tex": texts.latex(tables, source),
    }
    written = []
    for ending, text in contents.items():
        file = folder / f"{_NAME}.{ending}"
        files.write_text(file, text)
        written.append(file)
    return written


def told(tables: Sequence[Filled]) -> list[str]:
    """Say of each table how much of it was measured here, and why the rest was not."""
    lines = []
    for filled in tables:
        counts = page.counts([filled])
        lines.append(
            f"{texts.caption(filled)}: {counts['measured']} of {counts['cells']} cells measured "
            f"here, {counts['comparable']} comparable"
        )
        notes = dict.fromkeys(
            note.told
            for line in filled.lines
            for cell in line.cells
            for note in (*cell.notes, *cell.warnings)
        )
        lines += [f"  {note}" for note in notes]
    return lines


def look_at_set(model: str, lq: Path, count: int) -> list[FaceTokens]:
    """Look at faces of a set, evenly chosen by their place in it, with a model.

    Raises: as `open_restorer` and `open_set`; ValueError if a face is not square.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as downloads:
        restorer = open_restorer(model, Path(downloads), device=device)
    faces = open_set(lq, column="lq_png")
    names = [faces.names()[place] for place in sorted(spread(len(faces.names()), count))]
    pictures = [_square(faces.read(name), f"{name} of {lq}", restorer.size) for name in names]
    return look_at(restorer, pictures, names)


def _square(picture: Image, name: str, size: int) -> Image:
    height, width = picture.shape[:2]
    if height != width:
        raise ValueError(f"{name} is {width} x {height}: aligned faces are square")
    return images.resize(picture, size)
