"""`hdrface config`: compose `params.yaml` from a profile, and check it before anything runs."""

import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml
from pydantic import StrictBool

from components import console, profiles
from components.params import (
    PARAMS_FILE,
    Compute,
    Params,
    ParamsError,
    check_value,
    nearest,
    read,
)
from components.profiles import CONF
from components.weights.manifest import RESTORER
from pipelines.commands.arguments import group
from pipelines.stage import STAGES, Stage

if TYPE_CHECKING:
    from components.assets.asset import Asset

app = group("Compose params.yaml from a profile, or check it.")

DVC_FILE = Path("dvc.yaml")

# Pairs of keys that must have the same value: one stage reads what another one writes, or both need
# it. B stands for each backbone that is trained.
_SAME = (
    ("degrade.faces", "faces.faces"),
    ("evaluate.pairs", "degrade.pairs"),
    ("report.scores", "evaluate.scores"),
    ("report.galleries", "evaluate.galleries"),
    ("report.models", "evaluate.models"),
    ("register.models", "evaluate.models"),
    ("register.scores", "evaluate.scores"),
    ("intermediates.B.pairs", "degrade.pairs"),
    ("features.B.pairs", "degrade.pairs"),
    ("features.B.intermediates", "intermediates.B.intermediates"),
    ("features.B.weights", "weights.B.out"),
    ("features.B.encoder", "weights.dinov3.out"),
    ("train.B.pairs", "degrade.pairs"),
    ("train.B.features", "features.B.features"),
    ("train.B.weights", "features.B.weights"),
    ("train.B.encoder", "features.B.encoder"),
    ("train.B.encoder_size", "features.B.encoder_size"),
    ("train.B.intermediate", "intermediates.B.model"),
    ("train.B.models", "evaluate.models"),
)


_IMPORTED = ", and there is no other restorer folder: 'hdrface import' makes one"
_MAY_BE_EMPTY = ("plain.backbones",)


@app.command("use")
def use(
    profile: Annotated[str, typer.Argument(metavar="PROFILE", help="A file in conf/profile.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="In Hydra's grammar.")
    ] = None,
) -> None:
    """Write params.yaml from a profile, with single values changed."""
    profiles.use(profile, overrides or ())
    from components.assets import pictures

    for asset in pictures.pictures(read()):
        if asset.state == "missing":  # DVC would say no more than [Errno 2]
            print(f"{asset.what}, {asset.which}: missing. {asset.remedy}", file=sys.stderr)


@app.command("check")
def check(
    profile: Annotated[
        str | None, typer.Option(help="A profile of conf/ instead of params.yaml.")
    ] = None,
    assets: Annotated[
        bool,
        typer.Option("--assets", help="List pictures, networks, GPUs and disk; fail if one lacks."),
    ] = False,
) -> None:
    """Check every section; name every bad key with its value."""
    check_file(profile)
    print("all parameters are valid", file=sys.stderr)
    if assets:
        _show_assets(_content(profile)[0])


def _show_assets(values: Mapping[str, Any]) -> None:
    """Print what the run needs, and end with code 1 if something is missing."""
    from components.assets import listing  # it imports torch

    found = listing.assets(values)
    print_assets(found)
    if listing.missing(found):
        raise typer.Exit(1)


def print_assets(found: Sequence["Asset"]) -> None:
    """Print a table on stdout, one row per asset, and below it what gets those that are missing.

    The commands are no column: they would be cut into lines that nobody can copy.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD)
    for title in ("what", "which", "state", "size", "licence"):
        table.add_column(title, overflow="fold", no_wrap=title == "state")
    for asset in found:
        style = "bold red" if asset.state == "missing" else ""
        licence = asset.licence.partition(" (")[0]  # what is said about it would need a line
        cells = (asset.what, asset.which, asset.state, asset.size or "–", licence or "–")
        table.add_row(*map(Text, cells), style=style)
    out = console.stdout(soft_wrap=False, highlight=False, markup=False)
    out.print(table)
    lacking = [asset for asset in found if asset.state == "missing"]
    if lacking:
        out.print(f"{len(lacking)} missing. What gets them:")
    for asset in lacking:
        out.print(f"  {asset.what}:\n    {asset.remedy}", soft_wrap=True)


def check_file(profile: str | None = None, *, file: Path = PARAMS_FILE, conf: Path = CONF) -> None:
    """Check every section of `params.yaml`, or of a profile, and what sections must agree on.

    Raises: ParamsError naming every bad key at once.
    """
    check_values(*_content(profile, file, conf))


def _content(
    profile: str | None, file: Path = PARAMS_FILE, conf: Path = CONF
) -> tuple[Mapping[str, Any], Path]:
    """Return the parameters of a file, or of a profile, and the file that they stand in."""
    if profile is None:
        return read(file), file
    values = yaml.safe_load(profiles.compose(profile, conf=conf))
    return values, conf / f"profile/{profile}.yaml"


def check_values(values: Mapping[str, Any], file: Path) -> None:
    """Check a whole set of parameters, the content of `file`. Raises: ParamsError."""
    # A list that is both an axis and a parameter is told once.
    problems = dict.fromkeys([*_section_problems(values, file), *_disagreements(values)])
    if problems:
        raise ParamsError(file, list(problems))


def _section_problems(values: Mapping[str, Any], file: Path) -> Iterator[str]:
    from components.serving.params import ServeParams  # it runs beside the line

    stages = {name: Stage.load(name) for name in STAGES}
    known = [
        "profile",
        "require_assets",
        "compute",
        "serve",
        *(stage.head for stage in stages.values()),
    ]
    yield from check_value("require_assets", values.get("require_assets"), StrictBool)
    for name in [name for name in values if name not in known]:
        there = ", ".join(sorted(known))
        yield f"{name}: no stage has this section; there are {there}{nearest(str(name), known)}"
    axes = {name: _axes(name) for name in stages}
    types = {key: stages[name].items[item] for name in stages for item, key in axes[name].items()}
    for key, its_type in types.items():
        yield from _axis_problems(key, its_type, values)
    for name, stage in stages.items():
        if stage.per is None:
            yield from _bad_keys(stage.params, stage.section, values, file)
        else:
            yield from _item_problems(stage, axes[name].get(stage.per), types, values, file)
    yield from _bad_keys(ServeParams, "serve", values, file)
    yield from _compute_problems([s.name for s in stages.values() if s.takes_compute], values, file)


def _compute_problems(
    stages: Sequence[str], values: Mapping[str, Any], file: Path
) -> Iterator[str]:
    for stage in stages:
        yield from _bad_keys(Compute, f"compute.{stage}", values, file)
    for name in _mapping(values, "compute"):
        if name not in stages:
            there = ", ".join(stages)
            yield f"compute.{name}: no such stage; there are {there}{nearest(str(name), stages)}"


def _axes(stage: str) -> dict[str, str]:
    """Return the key of the list that DVC takes each item of a stage from: `train.backbones`."""
    entry = yaml.safe_load(DVC_FILE.read_text(encoding="utf-8"))["stages"].get(stage, {})
    return {item: key.strip("${}") for item, key in entry.get("matrix", {}).items()}


def _axis_problems(key: str, its_type: Any, values: Mapping[str, Any]) -> Sequence[str]:
    found = _at(values, key)
    if problems := check_value(key, found, list[its_type]):
        return problems
    if (not found and key not in _MAY_BE_EMPTY) or len(set(found)) < len(found):
        return [f"{key} = {found!r}: Input should name one or more, none twice"]
    return ()


def _item_problems(
    stage: Stage, axis: str | None, lists: Collection[str], values: Mapping[str, Any], file: Path
) -> Iterator[str]:
    """Check the section of every item that is named or has one."""
    its_type = stage.items[str(stage.per)]
    named = _names(values, axis) if axis else []
    valid = [name for name in named if not check_value(name, name, its_type)]
    there = [name for name in _mapping(values, stage.head) if f"{stage.head}.{name}" not in lists]
    for item in dict.fromkeys([*valid, *there]):
        section = f"{stage.head}.{item}"
        yield from check_value(section, item, its_type) or _bad_keys(
            stage.params, section, values, file
        )


def _bad_keys(
    section_class: type[Params], section: str, values: Mapping[str, Any], file: Path
) -> Sequence[str]:
    try:
        section_class.parse(section, values, file)
    except ParamsError as error:
        return error.problems
    return ()


def _disagreements(values: Mapping[str, Any]) -> Iterator[str]:
    """Find where sections that are valid one by one do not fit together."""
    for key, source in _SAME:
        for backbone in _names(values, "train.backbones") if ".B" in key else [""]:
            one, other = (name.replace(".B", f".{backbone}") for name in (key, source))
            if (found := _at(values, one)) != (expected := _at(values, other)):
                yield f"{one} = {found!r}: {other} is {expected!r}, and they must be the same"
    yield from _unmade_models(values)
    scored = set(_names(values, "report.names"))
    if set(candidates := _names(values, "register.candidates")) - scored:
        yield f"register.candidates = {candidates}: the stage evaluate scores {sorted(scored)}"
    yield from _unmeasured(values)
    networks = _names(values, "weights.networks")
    needed = [*_names(values, "train.backbones"), *_names(values, "plain.backbones"), "dinov3"]
    if missing := sorted(set(needed) - set(networks)):
        yield f"weights.networks = {networks}: {', '.join(missing)} is needed too"


def _unmeasured(values: Mapping[str, Any]) -> Iterator[str]:
    """Find the metrics that decide about the champion and are not measured."""
    measured = [*_names(values, "evaluate.metrics"), "identity_angle"]  # which always is, if it can
    rule = _mapping(_mapping(values, "register"), "promotion")
    named = {"better": _names(rule, "better"), "not_worse": list(_mapping(rule, "not_worse"))}
    groups = _mapping(rule, "groups")
    named |= {f"groups.{column}": list(_mapping(groups, column)) for column in groups}
    if isinstance(angle := _at(rule, "flagged.metric"), str):
        named["flagged.metric"] = [angle]
    for key, metrics in named.items():
        for metric in metrics:
            if metric not in measured:
                yield f"register.promotion.{key} = {metric!r}: evaluate.metrics lacks it"


def _unmade_models(values: Mapping[str, Any]) -> Iterator[str]:
    """Find the trained folders that a stage reads and no stage makes."""
    trained, plain = _names(values, "train.backbones"), _names(values, "plain.backbones")
    if set(trained) != (there := set(_mapping(values, "intermediates"))):
        found = sorted(there)
        yield f"intermediates has sections {found}: it needs those of train.backbones, {trained}"
    made = {f"{_at(values, f'plain.{backbone}.models')}/{backbone}-text" for backbone in plain}
    for backbone in trained:
        key = f"intermediates.{backbone}.model"
        if (model := _at(values, key)) not in made and not _is_restorer(model):
            yield f"{key} = {model!r}: the stage plain makes {sorted(made)}{_IMPORTED}"
    conditions = _names(values, "train.conditions")
    models = _at(values, "evaluate.models")
    made |= {f"{models}/{backbone}-{condition}" for backbone in trained for condition in conditions}
    for name in _names(values, "report.names"):
        if (model := f"{models}/{name}") not in made and not _is_restorer(model):
            yield f"report.names = {name!r}: the stages make {sorted(made)}{_IMPORTED}"


def _is_restorer(model: Any) -> bool:
    return isinstance(model, str) and (Path(model) / RESTORER).is_file()


def _at(values: Any, key: str) -> Any:
    for name in key.split("."):
        values = values.get(name) if isinstance(values, Mapping) else None
    return values


def _names(values: Mapping[str, Any], key: str) -> list[str]:
    found = _at(values, key)
    return [name for name in found if isinstance(name, str)] if isinstance(found, list) else []


def _mapping(values: Mapping[str, Any], section: str) -> Mapping[str, Any]:
    found = values.get(section)
    return found if isinstance(found, Mapping) else {}
