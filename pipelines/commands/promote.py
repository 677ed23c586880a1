"""`hdrface promote`: make a registered version the champion."""

from pipelines.commands.arguments import Registered


def promote(model: Registered) -> None:
    """Make a registered version the champion, whatever the rule in params.yaml says."""
    from components.tracking import manual

    print(manual.promote(model))
