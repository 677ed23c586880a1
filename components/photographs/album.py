"""Restore the faces of many photographs and videos into a folder.

The folder gets one file for each input, and `results.jsonl` with one line for each input: what was
done to it and to each of its faces.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from components.photographs import album_page
from components.photographs.inputs import Job, find_jobs
from components.photographs.options import OutputOptions, RestoreOptions, Tools
from components.photographs.results import Result, ResultsFile
from components.photographs.workers import Crew, Restores, Work
from components.progress import Progress

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Album:
    """What became of the inputs."""

    results: list[Result]  # in the order of the inputs
    model_size: int  # pixels of the square in which the model restores a face
    is_stopped: bool  # by Ctrl-C, before all inputs were done


def run(
    inputs: Sequence[str],
    out: Path,
    model: str,
    tools: Tools,
    options: RestoreOptions,
    output: OutputOptions,
) -> Album:
    """Restore photographs and videos into a folder, and write `results.jsonl` there.

    Args:
        inputs: files, folders (with all that is below them) and patterns.
        out: the folder for the results.
        model: a trained folder, models:/NAME@ALIAS, models:/NAME/VERSION or runs:/ID/model.
        tools: the other networks.
        options: how faces are restored.
        output: how results are written, and by how many processes.

    Returns: one result for each input. If an input cannot be used, its result says so and the
    others are still restored. After Ctrl-C, the results of those that were done.

    Raises: ValueError if no input can be used, the model does not exist, or the options need what
        the tools cannot do.
    """
    jobs = find_jobs(inputs, out, output.format)
    work = Work(model, tools, options, output)
    with ExitStack() as stack:
        restorer: Restores
        if (number := min(output.workers, len(jobs))) > 1:
            restorer = stack.enter_context(Crew(work, number))
        else:
            restorer = work.open()
        out.mkdir(parents=True, exist_ok=True)
        results, is_stopped = _restore(jobs, out, restorer)
    if output.page:
        album_page.write(out, results)
    return Album(results, restorer.size, is_stopped)


def _restore(jobs: Sequence[Job], out: Path, restorer: Restores) -> tuple[list[Result], bool]:
    """Restore files, and return their results in order, and whether Ctrl-C came before the end."""
    order = [str(job.source) for job in jobs]
    named = [(job, _name(job, out)) for job in jobs]
    done: dict[str, Result] = {}
    is_stopped = False
    with ResultsFile(out, order) as lines, Progress("restore", "files", len(jobs)) as progress:

        def take(results: Iterator[Result]) -> None:
            for result in results:
                if result.input not in done:
                    done[result.input] = result
                    lines.add(result)
                    progress.advance()

        try:
            take(restorer.restore(named, lines.records()))
        except KeyboardInterrupt:
            is_stopped = True
            log.info("stopping as soon as the files under way are done")
            take(restorer.rest())
    return [done[name] for name in order if name in done], is_stopped


def _name(job: Job, out: Path) -> str:
    """Return an input's name below its folder, without suffix."""
    return job.target.relative_to(out).with_suffix("").as_posix()
