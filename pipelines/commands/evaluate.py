"""`hdrface evaluate`: score models, and other programs' results, on faces that lie here."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from components import console

if TYPE_CHECKING:
    from rich.table import Table

_SHOWN = 5  # faces in a line


Models = Annotated[
    list[str] | None,
    typer.Option(
        metavar="MODEL",
        help="A trained folder, models:/NAME@ALIAS, spandrel:FILE or onnx:FILE; several are "
        "compared.",
    ),
]
Results = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="DIR", help="Pictures that a program restored, named as the faces; or several."
    ),
]
HighQuality = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Aligned faces of high quality: a folder or a table."),
]
LowQuality = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Degraded faces. Without them, --hq is degraded."),
]
Reference = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="The faces that the metric fid_folders compares with."),
]
Metrics = Annotated[
    str | None, typer.Option(metavar="NAMES", help="Metrics, with commas between them.")
]
Detector = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="An ONNX file, for pictures that are not aligned."),
]
Endings = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TEXT", help="An ending of names that is left out to match them, such as _LR."
    ),
]
Groups = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="A CSV of `file` and columns by which faces are grouped."),
]
Seed = Annotated[int, typer.Option(help="Seed of the degradations.")]
BatchSize = Annotated[int, typer.Option(help="Faces that are scored at once.")]
Numbers = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write the numbers of every face here.")
]
IdentityNetwork = Annotated[
    Path | None, typer.Option(metavar="FILE", help="An ONNX file, for the identity angle.")
]
Recipe = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="The file with `degrade.recipe`. By default, the degradation that a trained "
        "folder learned from.",
    ),
]


def evaluate(
    model: Models = None,
    results: Results = None,
    hq: HighQuality = None,
    lq: LowQuality = None,
    reference: Reference = None,
    metrics: Metrics = None,
    detector: Detector = None,
    ignore_ending: Endings = None,
    groups: Groups = None,
    seed: Seed = 42,
    batch_size: BatchSize = 8,
    json: Numbers = None,
    identity_network: IdentityNetwork = None,
    params: Recipe = None,
) -> None:
    """Score models and folders of results on the same faces."""
    from components import files, logs
    from components.degradation.recipe import DegradationParams
    from components.params import Compute
    from components.reporting import evaluation, folder_scores

    logs.configure()
    recipe = None if params is None else DegradationParams.load("degrade.recipe", params)
    wanted = folder_scores.Wanted(
        hq=hq,
        lq=lq,
        models=tuple(model or ()),
        results=tuple(results or ()),
        reference=reference,
        detector=detector,
        endings=tuple(ignore_ending or ()),
        metrics=tuple(metrics.split(",")) if metrics else (),
        groups=groups,
    )
    found = folder_scores.evaluate(
        wanted,
        seed=seed,
        recipe=recipe,
        identity_network=identity_network,
        batch_size=batch_size,
        compute=Compute.of_command("evaluate"),
    )
    differences = evaluation.differences(found, samples=folder_scores.BOOTSTRAP_SAMPLES, seed=seed)
    if json is not None:
        compared = {"results": found, "differences": differences}
        files.write_json(json, found[0] if len(found) == 1 else compared)
    for result in found:
        print_scores(result)
    if differences:
        print_differences(differences)


def print_scores(result: Mapping[str, Any]) -> None:
    """Print the scores on stdout, with what was not measured and not used."""
    from rich import box
    from rich.table import Table

    from components.metrics.catalogue import CATALOGUE
    from components.metrics.protocol import title
    from components.reporting.comparison import GAIN, ROLES

    table = Table(box=box.SIMPLE_HEAD, title=_title(result), title_justify="left")
    table.add_column("metric")
    roles = [role for role in ROLES if any(role in one for one in result["metrics"].values())]
    has_gain = any(GAIN in metric for metric in result["metrics"].values())
    for column in (*roles, *((GAIN, "95 % of the gain") if has_gain else ("95 %",))):
        table.add_column(column, justify="right")
    for name, metric in result["metrics"].items():
        entry = CATALOGUE[name]
        last = metric.get(GAIN) or metric[[role for role in roles if role in metric][-1]]
        table.add_row(
            f"{title(entry.title, metric['protocol'])} ({entry.direction} is better)",
            *(_cell(metric.get(role)) for role in roles),
            *([f"{last['mean']:+.3f}"] if has_gain else []),
            _between(last, signed=has_gain),
        )
    out = console.stdout()
    out.print(table)
    if result["groups"]:
        out.print(_groups(result["groups"]))
    _print_notes(result)


def _groups(rows: Sequence[Mapping[str, Any]]) -> "Table":
    """Make the table of groups; a star marks those that differ from the others beyond chance."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, title="by group (* differs at 5 %)", title_justify="left")
    for column in ("metric", "by", "group", "mean", "95 %", "faces", "p"):
        table.add_column(column, justify="left" if column in ("metric", "by", "group") else "right")
    for row in rows:
        p = "–" if row["p"] is None else f"{row['p']:.3f}{' *' if row['differs'] else ''}"
        mean, between = f"{row['mean']:.3f}", _between(row, signed=False)
        table.add_row(row["metric"], row["column"], row["group"], mean, between, str(row["n"]), p)
    return table


def _title(result: Mapping[str, Any]) -> str:
    protocol = result["protocol"]
    size = f", {protocol['size']} x {protocol['size']}" if "size" in protocol else ""
    seed = f", seed {protocol['degradation_seed']}" if "degradation_seed" in protocol else ""
    num_faces = len(result["faces"])
    return f"{result['model']['name']} on {num_faces} faces of {protocol['faces']}{size}{seed}"


def _cell(scores: Mapping[str, Any] | None) -> str:
    if scores is None:
        return "–"
    partly = f" ({scores['n']} of {scores['of']} faces)" if scores["n"] < scores["of"] else ""
    return f"{scores['mean']:.3f}{partly}"


def _between(interval: Mapping[str, Any], *, signed: bool = True) -> str:
    low, high = interval["low"], interval["high"]
    if low is None:
        return "–"
    return f"{low:+.3f} … {high:+.3f}" if signed else f"{low:.3f} … {high:.3f}"


def _print_notes(result: Mapping[str, Any]) -> None:
    """Print how each number was measured, and everything that has no number."""
    from components.metrics.protocol import told

    lines = [f"{name}: {told(metric['protocol'])}" for name, metric in result["metrics"].items()]
    for name, metric in result["metrics"].items():
        if warning := metric.get("restored", metric.get("degraded", {})).get("warning"):
            lines.append(f"warning: {name}: {warning}")
    lines += [f"not measured: {name}: {why}" for name, why in result["unavailable"].items()]
    lines += [
        f"no score: {one['face_id']}: the {one['role']} picture is {one['reason']}"
        for one in result["failures"]
    ]
    for name, faces in result["worse"].items():
        if faces:
            first = ", ".join(face["face_id"] for face in faces[:_SHOWN])
            lines.append(f"worse than degraded by {name}: {len(faces)} faces, the worst: {first}")
    lines += [f"rejected: {one['id']}: {one['reason']}" for one in result["rejected"]]
    lines += [f"not used: {name} belongs to no face" for name in result["unused"]]
    out = console.stdout()
    for line in lines:
        out.print(line, highlight=False, markup=False)


def print_differences(differences: Sequence[Mapping[str, Any]]) -> None:
    """Print how the models differ, face by face."""
    from rich import box
    from rich.table import Table

    from components.metrics.catalogue import CATALOGUE

    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"against {differences[0]['against']}, face by face",
        title_justify="left",
    )
    for column in ("model", "metric", "difference", "95 %", "faces"):
        table.add_column(column, justify="left" if column in ("model", "metric") else "right")
    for one in differences:
        entry = CATALOGUE[one["metric"]]
        table.add_row(
            one["model"],
            f"{entry.title}: {one['metric']} ({entry.direction} is better)",
            f"{one['mean']:+.3f}",
            _between(one),
            str(one["n"]),
        )
    console.stdout().print(table)
