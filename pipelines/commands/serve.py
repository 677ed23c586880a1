"""`hdrface serve`: restoration over HTTP."""

from typing import Annotated

import typer


def serve(
    host: Annotated[
        str,
        typer.Option(help="Address to listen on. Any other than 127.0.0.1 needs API keys."),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Replaces a value of the section serve."),
    ] = None,
) -> None:
    """Serve restoration over HTTP, with the section serve of params.yaml."""
    from components import logs
    from components.serving import running
    from components.serving.params import load

    logs.configure()
    running.run(load(overrides or ()), host=host, port=port)
