"""The folders in which this machine keeps networks, and what it knows of files.

`$HDRFACE_STORE`, otherwise `~/.cache/hdrface`. Networks lie there under their fingerprints
(`components.weights.store`), hashes of files in `hashes` (`components.hashes`).
"""

import os
from pathlib import Path

STORE_VARIABLE = "HDRFACE_STORE"


def stores() -> list[Path]:
    """List the stores of this machine, the preferred one first."""
    named = os.environ.get(STORE_VARIABLE)
    default = Path.home() / ".cache" / "hdrface"
    return [Path(named).expanduser(), default] if named else [default]
