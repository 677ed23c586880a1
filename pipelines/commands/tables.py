"""`hdrface tables`: the tables that stages write, and those of the paper."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.commands.arguments import group

app = group("Check the tables that stages write; make those of the paper.")


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A table.")],
) -> None:
    """Compare the hash of every shard of a table with its manifest."""
    from components.tables import Table

    table = Table.open(folder)
    table.verify()
    print(f"{folder}: {table.num_rows} rows in {len(table.shards)} shards are as written")


@app.command()
def paper(
    sources: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE",
            help="A YAML file with `sets` of faces and `methods`; see docs/tables.md. Without it, "
            "the table has this project's own scores.",
        ),
    ] = None,
    only: Annotated[
        str | None, typer.Option(metavar="1,3", help="Make these tables alone.")
    ] = None,
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="DIR", help="Where the tables are written.")
    ] = Path("reports/tables"),
) -> None:
    """Put the numbers from here beside the paper's: Tables 1 to 4, 6 and 7.

    Scores that are there are read. What the file names is scored once and kept in DIR/kept. A cell
    says why it has no number, or why its two numbers are not comparable.
    """
    from components import console, logs
    from components.paper import published, writing
    from components.paper.sources import Sources

    logs.configure()
    chosen = published.chosen(only)
    made = writing.make(chosen, Sources.from_file(sources), writing.project(), kept=out / "kept")
    print_out = console.stdout()
    for line in writing.told(made):
        print_out.print(line, highlight=False, markup=False)
    for file in writing.write(made, out):
        print(file)


@app.command()
def figure5(
    model: Annotated[
        str, typer.Option(metavar="MODEL", help="A trained folder with a gate, or its MLflow name.")
    ],
    lq: Annotated[
        Path, typer.Option(metavar="DIR", help="Aligned, degraded faces: a folder or a table.")
    ],
    faces: Annotated[int, typer.Option(min=1, help="How many of them are drawn.")] = 4,
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="FILE", help="The PNG that is written.")
    ] = Path("reports/tables/figure5.png"),
) -> None:
    """Draw what the gate sees and makes of faces, as Fig. 5 of the paper: LQ, SR and fused tokens.

    Each is shown by the length of its tokens and by their principal components as colours.
    """
    from components import files, images, logs
    from components.paper import heat_maps, writing

    logs.configure()
    looked_at = writing.look_at_set(model, lq, faces)
    files.write_bytes(out, images.encode_png(heat_maps.draw(looked_at)))
    print(out)
