"""`hdrface jobs`: the jobs of a Ray cluster."""

import time

from components import console
from pipelines.commands.arguments import Address


def jobs(address: Address = None) -> None:
    """List the jobs that were submitted to a Ray cluster, the newest first."""
    from rich import box
    from rich.table import Table

    from components.jobs import submission

    found = submission.find_jobs(submission.connect(submission.find_address(address)))
    table = Table(box=box.SIMPLE_HEAD)
    for title in ("id", "state", "age", "commit"):
        table.add_column(title, no_wrap=True)
    table.add_column("command", overflow="fold")
    for job in found:
        commit = f"{job.commit[:9]}{' dirty' if job.dirty else ''}" if job.commit else "–"
        table.add_row(job.name, job.state, _age(job.started_at), commit, job.command)
    console.stdout(soft_wrap=False, markup=False).print(table)


def _age(started_at: float | None) -> str:
    if started_at is None:
        return "–"
    age_s = max(0.0, time.time() - started_at)
    for unit, length_s in (("d", 86400), ("h", 3600), ("min", 60)):
        if age_s >= 2 * length_s:
            return f"{age_s / length_s:.0f} {unit}"
    return f"{age_s:.0f} s"
