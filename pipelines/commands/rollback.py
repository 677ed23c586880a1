"""`hdrface rollback`: make the champion before the present one the champion again."""

from typing import Annotated

import typer


def rollback(
    name: Annotated[str, typer.Argument(help="The registered model.")] = "hdrface",
) -> None:
    """Make the champion before the present one the champion again."""
    from components.tracking import manual

    print(manual.rollback(name))
