"""`hdrface check`: whether a model restores the same faces with 8-bit weights."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from components import console

if TYPE_CHECKING:
    from components.restorers.int8_check import Int8Check

Model = Annotated[
    str,
    typer.Option(
        metavar="MODEL", help="A trained folder, models:/NAME@ALIAS or models:/NAME/VERSION."
    ),
]
HighQuality = Annotated[
    Path,
    typer.Option(
        metavar="DIR",
        help="Aligned faces of high quality, which are degraded: a folder or a table.",
    ),
]
Seed = Annotated[int, typer.Option(help="Seed of the degradations.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Faces that are restored at once.")]
Recipe = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="The file with `degrade.recipe`. By default, the degradation that the model learned "
        "from.",
    ),
]


def check(
    model: Model,
    hq: HighQuality,
    seed: Seed = 42,
    batch_size: BatchSize = 8,
    params: Recipe = None,
) -> None:
    """Restore faces in bf16 and in int8; note in the trained folder whether int8 may be used."""
    from components import logs
    from components.degradation.recipe import DegradationParams
    from components.reporting import int8_faces

    logs.configure()
    recipe = None if params is None else DegradationParams.load("degrade.recipe", params)
    done, rejected = int8_faces.check(model, hq, seed=seed, recipe=recipe, batch_size=batch_size)
    _print(model, done)
    for name, reason in rejected:
        typer.echo(f"rejected: {name}: {reason}")
    if failures := list(done.failures()):
        typer.echo(f"hdrface: {model} is not used in int8: {'; '.join(failures)}", err=True)
        raise typer.Exit(1)


def _print(model: str, done: "Int8Check") -> None:
    """Print the numbers and their limits on stdout."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, title=f"{model}: int8 against bf16", title_justify="left")
    for column in ("", "found", "at least"):
        table.add_column(column, justify="right" if column else "left")
    table.add_row("faces", str(done.faces), str(done.min_faces))
    table.add_row("mean PSNR, dB", f"{done.mean_psnr:.2f}", f"{done.min_mean_psnr:g}")
    table.add_row("worst PSNR, dB", f"{done.worst_psnr:.2f}", f"{done.min_worst_psnr:g}")
    console.stdout(markup=False).print(table)
