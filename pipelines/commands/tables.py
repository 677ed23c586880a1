"""`hdrface tables`: work with the tables that stages write."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.commands.arguments import group

app = group("Work with the tables that stages write.")


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A table.")],
) -> None:
    """Compare the hash of every shard of a table with its manifest."""
    from components.tables import Table

    table = Table.open(folder)
    table.verify()
    print(f"{folder}: {table.num_rows} rows in {len(table.shards)} shards are as written")
