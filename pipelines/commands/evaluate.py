"""`hdrface evaluate`: degrade a folder of faces, restore them with a model, print the scores."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from components import console
from pipelines.commands.arguments import Restorer


def evaluate(
    model: Restorer,
    hq: Annotated[Path, typer.Option(metavar="DIR", help="Aligned faces of high quality.")],
    seed: Annotated[int, typer.Option(help="Seed of the degradations.")] = 42,
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the numbers of every face here.")
    ] = None,
    identity_network: Annotated[
        Path | None, typer.Option(metavar="FILE", help="An ONNX file, for the identity angle.")
    ] = None,
    params: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The file with `degrade.recipe`. By default, the degradation that a trained "
            "folder learned from.",
        ),
    ] = None,
) -> None:
    """Degrade a folder of faces, restore them with a model, and score it."""
    from components import files, logs
    from components.degradation.recipe import DegradationParams
    from components.reporting import folder_scores

    logs.configure()
    recipe = None if params is None else DegradationParams.load("degrade.recipe", params)
    result = folder_scores.run(
        model, hq, seed=seed, recipe=recipe, identity_network=identity_network
    )
    if json is not None:
        files.write_json(json, result)
    print_scores(result)


def print_scores(result: Mapping[str, Any]) -> None:
    """Print the scores on stdout, with what was not measured and not used."""
    from rich import box
    from rich.table import Table

    from components.metrics.catalogue import CATALOGUE
    from components.reporting.comparison import GAIN, ROLES

    model, protocol = result["model"], result["protocol"]
    num_faces = len(result["faces"])
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"{model['name']} on {num_faces} faces of {protocol['faces']}, "
        f"{protocol['size']} x {protocol['size']}, seed {protocol['degradation_seed']}",
        title_justify="left",
    )
    table.add_column("metric")
    for role in (*ROLES, GAIN, "95 % of the gain"):
        table.add_column(role, justify="right")
    for name, metric in result["metrics"].items():
        entry, gain = CATALOGUE[name], metric[GAIN]
        low, high = gain["low"], gain["high"]
        table.add_row(
            f"{entry.title} ({entry.direction} is better)",
            *(f"{metric[role]['mean']:.3f}" if role in metric else "–" for role in ROLES),
            f"{gain['mean']:+.3f}",
            "–" if low is None else f"{low:+.3f} … {high:+.3f}",
        )
    out = console.stdout()
    out.print(table)
    for name, reason in result["unavailable"].items():
        out.print(f"not measured: {name}: {reason}", highlight=False, markup=False)
    for one in result["rejected"]:
        out.print(f"rejected: {one['id']}: {one['reason']}", highlight=False, markup=False)
