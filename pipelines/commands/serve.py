"""`hdrface serve`: restoration over HTTP."""

from typing import Annotated

import typer


def serve(
    host: Annotated[
        str, typer.Option(help="Where to listen; others than this machine need API keys.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Where to listen.")] = 8000,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Instead of what params.yaml has under serve."),
    ] = None,
) -> None:
    """Serve restoration over HTTP, as the section serve of params.yaml says."""
    from components import logs
    from pipelines import serve as endpoint

    logs.configure()
    endpoint.run(endpoint.load(overrides or ()), host=host, port=port)
