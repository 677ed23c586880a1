"""`hdrface degrade`: degrade the pictures of a folder into another folder."""

from pathlib import Path
from typing import Annotated

import typer


def degrade(
    source: Annotated[str, typer.Argument(metavar="IN", help="A folder, or s3://bucket/prefix.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder.")],
    seed: Annotated[int, typer.Option(help="Seed of the degradations.")] = 42,
    variants: Annotated[int, typer.Option(help="Degraded twins of a picture.")] = 1,
    params: Annotated[
        Path, typer.Option(metavar="FILE", help="The file with `degrade.recipe`.")
    ] = Path("params.yaml"),
) -> None:
    """Degrade the pictures of a folder, as params.yaml says, into another folder."""
    from components import logs
    from components.degradation import folder
    from components.degradation.recipe import DegradationParams

    logs.configure()
    recipe = DegradationParams.load("degrade.recipe", params)
    done = folder.degrade_folder(source, target, recipe=recipe, seed=seed, variants=variants)
    print(f"{target}: {done.num_pictures} pictures, {len(done.rejected)} rejected")
