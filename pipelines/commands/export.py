"""`hdrface export`: write a trained folder's networks as files that run without this project."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from components import console

if TYPE_CHECKING:
    from components.restorers.export import Written


def export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A trained folder on sd21.")],
    form: Annotated[
        Literal["onnx", "torch-export"],
        typer.Option("--format", help="ONNX files, or programs of torch.export."),
    ],
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="OUT", help="A new folder for the parts.")
    ],
) -> None:
    """Export a trained folder's networks, run each, and compare it with its original."""
    from components.restorers import export as exporting

    written = exporting.export(folder, form, out)
    print_table(written)
    if unequal := [one.name for one in written if not one.is_equal]:
        typer.echo(
            f"hdrface: {', '.join(unequal)} differ from the original by more than "
            f"{exporting.LARGEST_DIFFERENCE}: nothing was written",
            err=True,
        )
        raise typer.Exit(1)


def print_table(written: Sequence["Written"]) -> None:
    """Print a row for each part on stdout."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("part")
    table.add_column("file")
    table.add_column("MB", justify="right")
    table.add_column("largest difference, of the largest number", justify="right")
    for one in written:
        size, difference = f"{one.num_bytes / 1e6:,.1f}", f"{one.difference:.1e}"
        table.add_row(one.name, one.file.name, size, difference)
    console.stdout(markup=False).print(table)
