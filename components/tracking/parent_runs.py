"""A run of MLflow over several others: an ablation over the trainings that it compares."""

import json
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from components.tracking import presented, runs
from components.tracking.client import open_client
from components.tracking.outages import Server

_PARENT_TAG = "mlflow.parentRunId"


def gather(name: str, children: Sequence[str], *, description: str, files: Sequence[Path]) -> str:
    """Put runs below a finished one of this name, made if need be, and return its id.

    Args:
        name: shown in the UI. A later call with it takes the same run.
        children: ids of runs.
        description: Markdown, shown on the run's page above a link to the children in charts.
        files: stored with it.

    Raises: as `runs.run_of`.
    """
    client = open_client()
    server = Server(client.tracking_uri)

    def write() -> str:
        parent = runs.find_or_create(client, f"ablation {name}", name=name)
        experiment = client.get_run(parent).info.experiment_id
        told = f"{description}\n[All of them in charts]({_charts(children, experiment)})"
        client.set_tag(parent, presented.DESCRIPTION_TAG, told)
        for child in children:
            client.set_tag(child, _PARENT_TAG, parent)
        for file in files:
            client.log_artifact(parent, str(file))
        client.set_terminated(parent)
        return parent

    return server.insist(write)


def _charts(runs: Sequence[str], experiment: str) -> str:
    """Return the address of MLflow's page that compares runs, below its own address."""
    chosen = {"runs": list(runs), "experiments": [experiment]}
    words = [f"{key}={quote(json.dumps(value))}" for key, value in chosen.items()]
    return f"#/compare-runs?{'&'.join(words)}&workflowType=machine_learning"
