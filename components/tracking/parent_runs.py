"""A run of MLflow over several others: an ablation over the trainings that it compares."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from components.tracking import presented, runs
from components.tracking.client import open_client
from components.tracking.outages import Server

_PARENT_TAG = "mlflow.parentRunId"


def gather(name: str, children: Iterable[str], *, description: str, files: Sequence[Path]) -> str:
    """Put runs below a finished one of this name, made if need be, and return its id.

    Args:
        name: shown in the UI. A later call with it takes the same run.
        children: ids of runs.
        description: Markdown, shown on the run's page.
        files: stored with it.

    Raises: as `runs.run_of`.
    """
    client = open_client()
    server = Server(client.tracking_uri)

    def write() -> str:
        parent = runs.find_or_create(client, f"ablation {name}", name=name)
        client.set_tag(parent, presented.DESCRIPTION_TAG, description)
        for child in children:
            client.set_tag(child, _PARENT_TAG, parent)
        for file in files:
            client.log_artifact(parent, str(file))
        client.set_terminated(parent)
        return parent

    return server.insist(write)
