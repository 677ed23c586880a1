"""`hdrface restore`: restore the faces of photographs and videos, print a table of the results."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from components import console
from components.console import printable
from components.photographs.options import OutputOptions, RestoreOptions, Tools
from pipelines.commands.arguments import Restorer
from pipelines.commands.section_options import with_section_options

if TYPE_CHECKING:
    from components.photographs.results import Result


@with_section_options
def restore(
    inputs: Annotated[
        list[str], typer.Argument(metavar="INPUT...", help="Files, folders, or patterns in quotes.")
    ],
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="DIR", help="The folder for the results.")
    ],
    model: Restorer,
    tools: Tools,
    options: RestoreOptions,
    output: OutputOptions,
) -> None:
    """Restore the faces of photographs and videos, and record what was done to each face."""
    from components import logs
    from components.photographs import album

    logs.configure()
    done = album.run(inputs, out, model, tools, options, output)
    print_table(done.results, done.model_size)
    if done.is_stopped:
        typer.echo("stopped: the same command with --skip-existing goes on", err=True)
        raise typer.Exit(130)  # as shells say it of Ctrl-C
    if any(result.status == "failed" for result in done.results):
        raise typer.Exit(1)


def print_table(results: Sequence["Result"], model_size: int) -> None:
    """Print a row for each input on stdout."""
    from rich import box
    from rich.table import Table

    statuses = Counter(result.status for result in results)
    counts = ", ".join(f"{count} {status}" for status, count in statuses.items())
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"{len(results)} files: {counts}; faces restored at {model_size} x {model_size}",
        title_justify="left",
    )
    table.add_column("file", overflow="fold")
    for column in ("faces", "restored", "flagged", "largest angle"):
        table.add_column(column, justify="right")
    table.add_column("result", overflow="fold")
    for result in results:
        table.add_row(printable(result.input), *_counts(result.record), _outcome(result))
    console.stdout(markup=False).print(table)


def _counts(record: Mapping[str, Any] | None) -> list[str]:
    if record is None:
        return ["–"] * 4
    faces = record["tracks"] if "tracks" in record else record["faces"]
    angles = [face["angle"] for face in faces if face["angle"] is not None]
    return [
        str(len(faces)),
        str(record["num_restored"]),
        str(sum(face["flagged"] for face in faces)),
        f"{max(angles):.1f}°" if angles else "–",
    ]


def _outcome(result: "Result") -> str:
    if result.reason:
        return printable(f"{result.status}: {result.reason}")
    return printable(result.output)
