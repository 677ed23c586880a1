"""`hdrface ablate`: run variants of the parameters, and compare them on the same faces.

reads   conf/experiment/NAME.yaml   the variants
writes  DVC's experiments, one per variant, and reports/ablations/NAME.{json,md}
"""

import json
import logging
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from components import ablations, console, files, git, logs
from components.ablations import Ablation, Variant
from components.params import ParamsError, read

log = logging.getLogger(__name__)

FOLDER = Path("reports/ablations")
_DVC = (sys.executable, "-m", "dvc")
# Stages that make tables, and the sections of parameters that each adds to those before it.
_TABLES = {
    "faces": ("samples", "faces"),
    "degrade": ("degrade",),
    "intermediates": ("weights", "plain", "intermediates"),
    "features": ("features",),
}


def ablate(
    name: Annotated[
        str | None, typer.Argument(help="A file in conf/experiment, as condition.")
    ] = None,
    over: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=V1,V2", help="Sweep a parameter; may be given several times."),
    ] = None,
    only: Annotated[
        str | None, typer.Option(metavar="A,B", help="Run these variants alone.")
    ] = None,
) -> None:
    """Run variants of params.yaml through the same stages and compare them, paired by face.

    Each variant is an experiment of DVC: what several need is made once, and a variant that is
    there already costs no more than its evaluation. The tree stays as it is.
    """
    logs.configure()
    values = read()
    ablation = _chosen(name, over or [], values)
    variants = _only(ablation, only)
    _check(variants)
    if code := _dvc("repro", *shared_tables(variants, values)):
        raise typer.Exit(code)
    failed = [variant.name for variant in variants if not _run(ablation, variant, values)]
    _compare(ablation, [variant for variant in variants if variant.name not in failed], values)
    if failed:
        print(
            f"{', '.join(failed)} failed: its output is above. The same command goes on from there",
            file=sys.stderr,
        )
        raise typer.Exit(1)


def _chosen(name: str | None, over: Sequence[str], values: Mapping[str, Any]) -> Ablation:
    if name is None and not over:
        there = ", ".join(ablations.names())
        raise ValueError(f"name an ablation ({there}), or sweep a parameter with --over KEY=V1,V2")
    ablation = ablations.whole(values) if name is None else ablations.read(name, values)
    return ablations.swept(ablation, over)


def _only(ablation: Ablation, only: str | None) -> Sequence[Variant]:
    known = [variant.name for variant in ablation.variants]
    wanted = known if only is None else only.split(",")
    if strange := [name for name in wanted if name not in known]:
        raise ValueError(f"--only {only}: no variant {strange[0]}; there are {', '.join(known)}")
    return [variant for variant in ablation.variants if variant.name in wanted]


def _check(variants: Sequence[Variant]) -> None:
    """Check the parameters of all, before any runs. Raises: ParamsError naming the variants."""
    from pipelines.commands.config import check_values

    problems = []
    for variant in variants:
        try:
            check_values(variant.values, Path(variant.name))
        except ParamsError as error:
            problems += [f"{variant.name}: {problem}" for problem in error.problems]
    if problems:
        raise ParamsError(Path("the variants (--only leaves some out)"), problems)


def shared_tables(variants: Sequence[Variant], values: Mapping[str, Any]) -> list[str]:
    """Return the stages whose tables are made in the tree, for all variants that read the same.

    DVC's cache of runs has no tables, since they stay where they are (`persist`): each experiment
    would make its own. `faces` is among them in any case: its pictures may lie outside of DVC's
    reach.
    """
    shared, sections = ["faces"], set(_TABLES["faces"])
    for stage in list(_TABLES)[1:]:
        sections.update(_TABLES[stage])
        if any(all(one.values[key] == values[key] for key in sections) for one in variants):
            shared.append(stage)
    return shared


def _experiment(ablation: Ablation, variant: Variant) -> str:
    return f"{ablation.name}-{variant.name}"


def _run(ablation: Ablation, variant: Variant, base: Mapping[str, Any]) -> bool:
    """Run one variant as an experiment; say whether it ended well."""
    experiment = _experiment(ablation, variant)
    log.info("%s: %s", experiment, ", ".join(variant.overrides(base)) or "params.yaml as it is")
    if experiment in _experiments():  # of this commit; DVC's cache has what it made
        subprocess.run([*_DVC, "exp", "remove", "--quiet", experiment], check=True)
    settings = [word for text in variant.overrides(base) for word in ("--set-param", text)]
    run = ("exp", "run", "--temp", "--no-hydra", "--allow-missing", "--name", experiment)
    # The lock names the finished tables, and the scores go with it.
    unknown = left_behind(["dvc.lock", base["evaluate"]["scores"]])
    copied = [word for name in unknown for word in ("--copy-paths", name)]
    return _dvc(*run, *copied, *settings, "evaluate") == 0


def left_behind(names: Sequence[str]) -> list[str]:
    """Return files and folders that git does not know yet: an experiment's checkout lacks them.

    Of a folder that git knows in part, these are files: DVC copies no folder over another.
    """
    found: list[str] = []
    for name in names:
        if git.output(Path(), "ls-files", "--", name):
            others = git.output(Path(), "ls-files", "-z", "--others", "--", name)
            found += filter(None, others.split("\0"))
        elif Path(name).exists():
            found.append(name)
    return found


def _dvc(*words: str) -> int:
    from components.cluster import sessions

    return sessions.run_inside([*_DVC, *words])


def _experiments() -> list[str]:
    found = subprocess.run(
        [*_DVC, "exp", "list", "--name-only"], check=True, capture_output=True, text=True
    )
    return found.stdout.split()


def _compare(ablation: Ablation, variants: Sequence[Variant], values: Mapping[str, Any]) -> None:
    """Print and write the table of those that ended well."""
    from components.reporting import ablation as table

    scores = {variant.name: _scores(ablation, variant, values) for variant in variants}
    if not scores:
        return
    evaluate = values["evaluate"]
    rows = table.rows(
        scores, ablation.choice, samples=evaluate["bootstrap_samples"], seed=evaluate["seed"]
    )
    FOLDER.mkdir(parents=True, exist_ok=True)
    target = FOLDER / ablation.name
    told = [{key: _plain(value) for key, value in row._asdict().items()} for row in rows]
    content = {"choice": ablation.choice, "rows": told, "scores": table.without_faces(scores)}
    files.write_json(target.with_suffix(".json"), content)
    text = table.markdown(rows)
    files.write_text(target.with_suffix(".md"), text)
    trainings = [model["model"].get("training") for models in scores.values() for model in models]
    _gather(ablation, trainings, text, target)
    _print(rows)


def _gather(ablation: Ablation, trainings: Sequence[str | None], text: str, target: Path) -> None:
    """Put the runs of the trainings below one of the ablation, which has the table."""
    from components.tracking import parent_runs, runs

    found = [runs.run_of(training) for training in dict.fromkeys(trainings) if training]
    parent_runs.gather(
        ablation.name,
        [run for run in found if run],
        description=text,
        files=[target.with_suffix(".json"), target.with_suffix(".md")],
    )


def _plain(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def _scores(
    ablation: Ablation, variant: Variant, values: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Read the metrics files that an experiment has left."""
    import dvc.api
    from dvc.exceptions import PathMissingError

    folder, revision = values["evaluate"]["scores"], _experiment(ablation, variant)
    files_of_models = [f"{folder}/{model}.json" for model in variant.models]
    try:
        return [json.loads(dvc.api.read(file, rev=revision)) for file in files_of_models]
    except PathMissingError as error:
        raise ValueError(
            f"{folder}: by dvc.lock, the scores of {revision} are finished, but they are neither "
            "here nor in git: run 'dvc repro evaluate', then the same command"
        ) from error


def _print(rows: Sequence[Any]) -> None:
    from rich import box
    from rich.table import Table

    from components.reporting import ablation

    table = Table(box=box.SIMPLE_HEAD)
    for title in ("variant", "model", "metric"):
        table.add_column(title, no_wrap=True)
    for title in ("score", "to the choice", "95 %", "faces"):
        table.add_column(title, justify="right")
    for row in rows:
        table.add_row(*ablation.cells(row))
    console.stdout(soft_wrap=False).print(table)
