"""`hdrface keys`: the API keys of an endpoint."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.commands.arguments import group

app = group("Work with the API keys of an endpoint.")
KeyFile = Annotated[Path, typer.Option("--file", metavar="FILE", help="As serve.keys names it.")]
KeyName = Annotated[str, typer.Argument(metavar="NAME", help="Who the key is for.")]
KEYS = Path("keys.json")


@app.command("add")
def add(
    name: KeyName,
    file: KeyFile = KEYS,
    days: Annotated[
        float | None, typer.Option(min=0, help="Days until it expires. By default, it does not.")
    ] = None,
) -> None:
    """Make a key and print it, once; the file keeps its hash."""
    from components.serving import keys

    print(keys.add(file, name, days=days))


@app.command("remove")
def remove(name: KeyName, file: KeyFile = KEYS) -> None:
    """Forget a key; a running endpoint refuses it from then on."""
    from components.serving import keys

    keys.remove(file, name)


@app.command("list")
def list_keys(file: KeyFile = KEYS) -> None:
    """Say who has a key, since when, and until when."""
    from components.serving import keys

    for name, entry in keys.read(file).items():
        print(f"{name}\t{entry.get('made', '')}\t{entry.get('expires', '')}")
