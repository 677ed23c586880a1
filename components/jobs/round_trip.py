"""A job from start to end: submit it, follow its log, fetch its results.

The working tree is sent, without data. With a data root, the results of the job's stages come back
when its log has been followed to the end (`components.jobs.results`).
"""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from components.jobs import results, submission, working_tree
from components.storage import ROOT_VARIABLE, data_root

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

INTERRUPTED = 130  # a shell's exit code after Ctrl-C

log = logging.getLogger(__name__)


def run(command: Sequence[str], address: str | None, *, folder: Path = Path()) -> int:
    """Submit a command, follow its log on stdout, and return its exit code.

    Raises: ValueError if the tree cannot be sent or the cluster refuses it.
    """
    client, job = _send(command, address, folder)
    log.info("%s runs on %s", job, client.get_address())
    return _follow(client, job, folder)


def start(command: Sequence[str], address: str | None, *, folder: Path = Path()) -> str:
    """Submit a command, and return the job's name at once. Raises: as `run`."""
    client, job = _send(command, address, folder)
    log.info("follow it with: %s", _attaching(client, job))
    return job


def follow(job: str, address: str | None, *, folder: Path = Path()) -> int:
    """Follow a job from the beginning of its log, and return its exit code.

    Raises: ValueError if there is no such job or cluster.
    """
    client = submission.connect(submission.find_address(address))
    if "root" not in submission.metadata(client, job):
        log.warning("%s began without %s: its results stay on the cluster", job, ROOT_VARIABLE)
    return _follow(client, job, folder)


def _send(
    command: Sequence[str], address: str | None, folder: Path
) -> tuple["JobSubmissionClient", str]:
    address = submission.find_address(address)
    source = working_tree.tree(folder)
    client = submission.connect(address)
    job = submission.submit(client, command, source)
    if data_root() is None:
        log.warning("%s is not set: the job's results stay on the cluster", ROOT_VARIABLE)
    return client, job


def _follow(client: "JobSubmissionClient", job: str, folder: Path) -> int:
    try:
        code = submission.follow(client, job, _write)
    except KeyboardInterrupt:
        if _is_asked_to_stop(job):
            code = submission.stop(client, job)
            _land(client, job, folder)
            return code
        log.info("%s continues; follow it with: %s", job, _attaching(client, job))
        return INTERRUPTED
    _land(client, job, folder)
    return code


def _land(client: "JobSubmissionClient", job: str, folder: Path) -> None:
    """Fetch the results; if that fails, the exit code is still the job's."""
    try:
        sent = submission.metadata(client, job)
        if "root" not in sent:
            return  # it was logged before
        source = working_tree.tree(folder)
    except ValueError as error:
        log.warning("the results of %s are not fetched: %s", job, error)
        return
    try:
        results.land(source.folder, job, list(source.files), sent)
    except (ValueError, OSError) as error:
        log.warning("the results of %s stay in %s/jobs/%s: %s", job, sent["root"], job, error)


def _is_asked_to_stop(job: str) -> bool:
    """Ask on a terminal; another Ctrl-C means no, and without a terminal so does silence."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    try:
        return typer.confirm(f"\nStop {job}? Otherwise it continues.", default=False, err=True)
    except typer.Abort:
        return False


def _attaching(client: "JobSubmissionClient", job: str) -> str:
    return f"hdrface submit --address {client.get_address()} --attach {job}"


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
