"""Ray's token: who has it can run any code as this user, so nobody else may read its file."""

import contextlib
import os
import secrets
import tempfile
from pathlib import Path

_MODE = 0o600
_BYTES = 32


def keep_secret() -> None:
    """Make the token's file for a Ray that starts here, or close the one that is there.

    Ray would make it readable by everybody on the machine.
    """
    given = any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    if given or os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    file = Path.home() / ".ray" / "auth_token"
    if not file.exists():
        _make(file)
    with contextlib.suppress(PermissionError):  # the operator's, who lends it to others
        if file.stat().st_mode & 0o077:
            file.chmod(_MODE)


def _make(file: Path) -> None:
    """Write a new token; one that another process writes meanwhile stays."""
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=file.parent)  # readable by its owner alone
    with os.fdopen(descriptor, "w") as temporary:
        temporary.write(secrets.token_hex(_BYTES))
    with contextlib.suppress(FileExistsError):
        os.link(name, file)
    Path(name).unlink()
