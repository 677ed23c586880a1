"""Arguments and options that several commands take, and how a group of commands looks."""

from typing import Annotated

import typer

Registered = Annotated[
    str, typer.Argument(metavar="MODEL", help="NAME/VERSION or NAME@ALIAS, as hdrface@champion.")
]
Restorer = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="MODEL",
        help="A trained folder, models:/NAME@ALIAS, models:/NAME/VERSION or runs:/ID/model; or a "
        "checkpoint of another project: spandrel:FILE (GFPGAN, RestoreFormer, CodeFormer), "
        "onnx:FILE; or onnx:DIR, of hdrface export.",
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="http://HOST:8265; otherwise RAY_API_SERVER_ADDRESS or RAY_ADDRESS is used.",
    ),
]


def group(description: str) -> typer.Typer:
    """Make an empty group of commands."""
    return typer.Typer(
        help=description,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,  # Rich costs a tenth of a second, also for --help
        pretty_exceptions_enable=False,
    )
