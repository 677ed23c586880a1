"""Templates of pages that load nothing."""

from pathlib import Path

import jinja2


def environment(folder: Path) -> jinja2.Environment:
    """Return what renders the templates of a folder: everything is escaped, nothing is missing."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
