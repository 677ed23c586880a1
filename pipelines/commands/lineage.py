"""`hdrface lineage`: from a registered model back to the data that taught it.

version -> MLflow run -> git commit -> every input of every stage, with DVC's hash -> tables, their
rows and where the pictures came from; and the licences of the weights that the model stands on.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from components import console
from components.lineage import inputs_of, is_source
from components.tracking.registry import CHALLENGER, CHAMPION, REASON_TAG, find
from pipelines.commands.arguments import Registered


def lineage(model: Registered) -> None:
    """Trace a registered version back: run, commit, inputs with hashes, faces, licences."""
    registry, version = find(model)
    story = registry.story(version)
    if story is None:
        raise ValueError(
            f"{registry.name}/{version.version} has no lineage: "
            "it was not made by the stage 'register'"
        )
    champions = registry.champions()
    aliases = {champions.challenger: CHALLENGER, champions.now: CHAMPION}
    alias = aliases.get(str(version.version))
    heading = {
        "version": f"models:/{registry.name}/{version.version}" + (f" @{alias}" if alias else ""),
        "reason": version.tags.get(REASON_TAG, "not decided about yet: run 'dvc repro register'"),
        "run": f"{story['run']} at {registry.uri}",
    }
    _print({**heading, **dict(_facts(story))}, story["stages"])


def _facts(story: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Give what there is to say beside the stages, by its heading."""
    commit = story["git"]["commit"] or "none: trained outside of a git repository"
    yield "model", f"{story['model']}, {story['fingerprint']}"
    yield "commit", f"{commit}{', and changes to it' if story['git']['dirty'] else ''}"
    for path, table in story["tables"].items():
        yield (
            path,
            f"{table['rows']} rows, {table['rejected']} rejected, by the stage {table['stage']}; "
            f"{table['fingerprint']}",
        )
    yield "pictures", _source(story["stages"])
    for weights in story["weights"]:
        revision = f" at {weights['revision']}" if weights["revision"] else ""
        yield (
            f"weights {weights['name']}",
            f"{weights['source']}{revision}; {weights['fingerprint']}",
        )
    yield "licences", "\n".join(story["licences"])


def _source(stages: Mapping[str, Any]) -> str:
    """Say where the pictures lay, as the stage `faces` was told."""
    for files in stages.get("faces", {}).get("params", {}).values():
        return str(files["faces"]["source"])
    return "not recorded: the stages were run without DVC"


def _print(facts: Mapping[str, str], stages: Mapping[str, Any]) -> None:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    summary = Table(box=box.SIMPLE, show_header=False)
    summary.add_column(style="bold", no_wrap=True)
    summary.add_column(overflow="fold")
    for key, value in facts.items():
        summary.add_row(escape(key), escape(value))
    inputs = Table(box=box.SIMPLE_HEAD)
    for title in ("stage", "input", "hash, as in dvc.lock"):
        inputs.add_column(title, overflow="fold")
    for row in _inputs(stages):
        inputs.add_row(*map(escape, row))
    out = console.stdout(soft_wrap=False, highlight=False)
    out.print(summary)
    out.print(inputs)


def _inputs(stages: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Give each input once, below the first stage that read it: data first, then sources."""
    seen: set[tuple[str, str]] = set()
    for stage, entry in stages.items():
        found = inputs_of({stage: entry}).items()
        for path, value in sorted(found, key=lambda item: is_source(item[0])):
            if (path, value) not in seen:
                seen.add((path, value))
                yield stage, path, value
