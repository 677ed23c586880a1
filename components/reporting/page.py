"""The report: one HTML page that loads nothing. Charts are SVG, pictures are data URIs."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from markupsafe import Markup

from components import images
from components.history import BEST_STEP, SYSTEM, VALIDATION
from components.images import Image
from components.reporting import charts, group_tables, metric_tables, templates
from components.reporting.charts import Node
from components.reporting.comparison import ROLES
from components.reporting.gallery import TITLES, Face, Gallery, colours

Named = TypeVar("Named")

_TEMPLATE = "page.html.j2"
_LARGEST = 384  # pixels of a picture on the page
_LOSSLESS = 160  # larger pictures are WebP, not PNG: a page of 512-pixel faces would be 80 MB
_NUM_SHOWN = 200  # rejected pictures per table
_RATE = "images_per_s"
_NO_LOSSES = (
    *(_RATE, "workers", "learning_rate", "gradient_norm", "discriminator_gradient_norm"),
    BEST_STEP,
)
_SHARE = "share_"  # of a term in the loss: in MLflow
_LOGITS = ("logit_real", "logit_fake")


@dataclass(frozen=True)
class TableFacts:
    """A table, and the pictures that were rejected on the way into it."""

    name: str
    stage: str
    fingerprint: str
    num_rows: int
    rejected: Sequence[tuple[str, str]]  # id, reason


@dataclass(frozen=True)
class WeightsFacts:
    """Where pretrained weights come from, and how well an autoencoder reproduces faces."""

    name: str
    kind: str
    source: str
    licence: str
    reconstruction_psnr: float | None


@dataclass(frozen=True)
class Output:
    """A stage's output and its hash, as in `dvc.lock`."""

    stage: str
    path: str
    hash: str


@dataclass(frozen=True)
class Report:
    """Everything that the page shows. Keys are models, `sd21-sdfm`."""

    title: str
    results: Mapping[str, Mapping[str, Any]]  # metrics files
    galleries: Mapping[str, Gallery]
    histories: Mapping[str, Sequence[Mapping[str, float]]]
    tables: Sequence[TableFacts] = ()
    weights: Sequence[WeightsFacts] = ()
    params: Mapping[str, str] = field(default_factory=dict)  # section -> YAML
    commit: str | None = None
    is_dirty: bool = False
    stages: Sequence[Node] = ()
    outputs: Sequence[Output] = ()


def render(report: Report) -> str:
    """Write the page. Raises: ValueError if models were scored on different faces."""
    if not report.results:
        raise ValueError("there is no metrics file to report on: run 'dvc repro evaluate'")
    environment = templates.environment(Path(__file__).parent)
    highlights = metric_tables.highlights(report.results)
    ranked = [item["model"] for item in highlights]
    in_order = dict(_in_order(report.results, ranked))
    environment.filters.update(number=_number, plain=_plain)
    return environment.get_template(_TEMPLATE).render(
        report=report,
        protocol=_protocol(report.results),
        highlights=highlights,
        metrics=metric_tables.tables(report.results),
        unavailable=metric_tables.unavailable(report.results),
        without_scores=metric_tables.failures(report.results),
        grouped=group_tables.tables(in_order),
        got_worse=group_tables.got_worse(in_order),
        galleries=[
            _pictures(gallery)
            for model, gallery in _in_order(report.galleries, ranked)
            if gallery.faces or gallery.failures
        ],
        scale=_scale(),
        trainings=[
            chart
            for model, rows in _in_order(report.histories, ranked)
            if rows
            for chart in _training(model, rows)
        ],
        graph=charts.stage_graph(report.stages) if report.stages else None,
        roles=ROLES,
        titles=TITLES,
        shown=_NUM_SHOWN,
    )


def _in_order(named: Mapping[str, Named], first: Sequence[str]) -> list[tuple[str, Named]]:
    """Return the items in the order of `first`, then those that it does not name."""
    names = dict.fromkeys([*(name for name in first if name in named), *named])
    return [(name, named[name]) for name in names]


def _number(value: float, digits: int, signed: bool = False) -> str:
    text = f"{value:{'+' if signed else ''}.{digits}f}"
    return text.replace("-", "−")


def _plain(value: Any) -> str:
    """Write nested parameters as `key value, key value`."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(one)}" for key, one in value.items())
    if isinstance(value, list | tuple):
        return " to ".join(map(_plain, value)) if len(value) == 2 else " ".join(map(_plain, value))
    return str(value)


def _protocol(results: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return what all models were scored on. Scores of different faces must not share a table."""
    models = list(results)
    first: Mapping[str, Any] = results[models[0]]["protocol"]
    for model in models[1:]:
        other = results[model]["protocol"]
        differing = [key for key in first.keys() | other.keys() if first.get(key) != other.get(key)]
        if differing:
            key = sorted(differing)[0]
            raise ValueError(
                f"{models[0]} was scored with {key} = {first.get(key)}, {model} with "
                f"{other.get(key)}: run 'dvc repro evaluate'"
            )
    return first


def _pictures(gallery: Gallery) -> dict[str, Any]:
    return {
        "model": gallery.model,
        "limits": gallery.limits,
        "faces": list(map(_face, gallery.faces)),
        "failures": list(map(_face, gallery.failures)),
    }


def _face(face: Face) -> dict[str, Any]:
    return {
        "face_id": face.face_id,
        "variant": face.variant,
        "pictures": {
            role: {"uri": _data_uri(picture), "size": picture.shape[0]}
            for role, picture in face.pictures.items()
        },
        "scores": face.scores.get("psnr", {}),
        "loss": group_tables.loss(face),
    }


def _training(model: str, history: Sequence[Mapping[str, float]]) -> Iterator[dict[str, Any]]:
    """Give a chart of the losses, of each validated score and of the logits, if there are any."""
    rates = [row[_RATE] for row in history if _RATE in row]
    facts = {
        "steps": round(max(row["step"] for row in history)),
        "rate": float(np.median(rates)) if rates else None,
    }
    curves = [
        curve
        for curve in charts.curves_of(history, without=_NO_LOSSES)
        if not curve.name.startswith((_SHARE, SYSTEM))
    ]
    scores = [curve for curve in curves if curve.name.startswith(VALIDATION)]
    losses = [curve for curve in curves if curve not in scores and curve.name not in _LOGITS]
    logits = [curve for curve in curves if curve.name in _LOGITS]
    charted = [
        ("losses", losses),
        *(
            (f"{curve.name.removeprefix(VALIDATION)} of test faces", [curve])
            for curve in scores
            if len(curve.steps) > 1  # one point is no line
        ),
        ("the discriminator's mean logits", logits),
    ]
    for title, shown in charted:
        if shown:
            chart = charts.line_chart(shown, title=f"{model}: {title}")
            yield {"title": f"{model}: {title}", **facts, "curves": shown, "chart": chart}


def _data_uri(picture: Image) -> str:
    if picture.shape[0] <= _LOSSLESS:
        return _uri("png", images.encode_png(picture))
    small = images.resize(picture, min(_LARGEST, picture.shape[0]))
    bgr = cv2.cvtColor(small, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".webp", bgr, [cv2.IMWRITE_WEBP_QUALITY, 92])
    if not done:
        raise ValueError(f"OpenCV cannot encode a picture of shape {small.shape} as WebP")
    return _uri("webp", bytes(data))


def _uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


@cache
def _scale() -> Markup:
    """Return the colour map as CSS stops."""
    stops = colours()[np.linspace(0, 255, 12).round().astype(int)].round().astype(int)
    return Markup(", ".join(f"rgb({red} {green} {blue})" for red, green, blue in stops))
