"""Files of a run: sent to the server's store, or linked where that is a folder of this machine.

A model of 41 GB is there once then: DVC links its cache to the same file (`.dvc/config`), and the
store does (`registry`). Nobody writes it in place, and whoever deletes one name leaves the others.
"""

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from components import files

if TYPE_CHECKING:
    from mlflow import MlflowClient


def store_file(client: "MlflowClient", run_id: str, file: Path, place: str) -> None:
    """Store a finished file, which nobody writes in place any more, as artifact `place`/NAME."""
    folder = folder_of(client, run_id)
    if folder is None:
        client.log_artifact(run_id, str(file), place)
    else:
        files.link(file, folder / place / file.name)


def store_folder(client: "MlflowClient", run_id: str, folder: Path, place: str) -> None:
    """Store a folder of finished files, with those below it, as artifacts under `place`."""
    target = folder_of(client, run_id)
    if target is None:
        client.log_artifacts(run_id, str(folder), place)
        return
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            files.link(file, target / place / file.relative_to(folder))


def folder_of(client: "MlflowClient", run_id: str) -> Path | None:
    """Return the folder where a run's artifacts lie, if MLflow keeps them on this machine."""
    address = urlsplit(client.get_run(run_id).info.artifact_uri)
    if address.scheme == "file" and address.netloc in ("", "localhost"):
        return Path(unquote(address.path))
    return None if address.scheme else Path(address.path)
