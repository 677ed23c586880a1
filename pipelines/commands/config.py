"""`hdrface config`: compose `params.yaml` from a profile, and check it before anything runs."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from components import profiles
from components.params import PARAMS_FILE, Compute, Params, ParamsError, read
from components.profiles import CONF
from pipelines.commands.arguments import group

app = group("Compose params.yaml from a profile, or check it.")

# Which class checks which section. Named, not imported: some modules need seconds to import.
SECTIONS = {
    "samples": "pipelines.samples:SamplesParams",
    "faces": "pipelines.faces:FacesParams",
    "degrade": "pipelines.degrade:DegradeParams",
    "evaluate": "pipelines.evaluate:EvaluateParams",
    "report": "pipelines.report:ReportParams",
    "serve": "components.serving.params:ServeParams",
    "register": "pipelines.register:RegisterParams",
}
# The same for a section that holds one section an item of its stage's matrix, beside the axes of
# that matrix (lists of names).
MATRIX_SECTIONS = {
    "weights": (("networks",), "pipelines.weights:WeightsParams"),
    "plain": (("backbones",), "pipelines.plain:PlainParams"),
    "intermediates": ((), "pipelines.intermediates:IntermediatesParams"),
    "features": ((), "pipelines.features:FeaturesParams"),
    "train": (("backbones", "conditions"), "pipelines.train:TrainParams"),
}
COMPUTE_STAGES = ("faces", "degrade", "plain", "intermediates", "features", "train", "evaluate")

# What one stage reads and another one writes, or both must know: the two keys have one value.
# B stands for each backbone that is conditioned.
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


@app.command("use")
def use(
    profile: Annotated[str, typer.Argument(metavar="PROFILE", help="A file in conf/profile.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="In Hydra's grammar.")
    ] = None,
) -> None:
    """Write params.yaml from a profile, with single values changed."""
    profiles.use(profile, overrides or ())


@app.command("check")
def check(
    profile: Annotated[
        str | None, typer.Option(help="A profile of conf/ instead of params.yaml.")
    ] = None,
) -> None:
    """Check every section; name every bad key with its value."""
    check_file(profile)
    print("all parameters are valid", file=sys.stderr)


def check_file(profile: str | None = None, *, file: Path = PARAMS_FILE, conf: Path = CONF) -> None:
    """Check every section of `params.yaml`, or of a profile, and what sections must agree on.

    Raises: ParamsError naming every bad key at once.
    """
    if profile is None:
        check_values(read(file), file)
    else:
        check_values(
            yaml.safe_load(profiles.compose(profile, conf=conf)), conf / f"profile/{profile}.yaml"
        )


def check_values(values: Mapping[str, Any], file: Path) -> None:
    """Check a whole set of parameters, the content of `file`. Raises: ParamsError."""
    problems = [*_section_problems(values, file), *_disagreements(values)]
    if problems:
        raise ParamsError(file, problems)


def _section_problems(values: Mapping[str, Any], file: Path) -> Iterator[str]:
    known = {"profile", "compute", *SECTIONS, *MATRIX_SECTIONS}
    for unknown in [name for name in values if name not in known]:
        yield f"{unknown}: no stage has this section; there are {', '.join(sorted(known))}"
    for section, target in SECTIONS.items():
        yield from _bad_keys(_load(target), section, values, file)
    for section, (matrix, target) in MATRIX_SECTIONS.items():
        yield from _matrix_problems(section, matrix, target, values, file)
    compute = _mapping(values, "compute")
    for stage in [*COMPUTE_STAGES, *(name for name in compute if name not in COMPUTE_STAGES)]:
        if stage not in COMPUTE_STAGES:
            yield f"compute.{stage}: no such stage; there are {', '.join(COMPUTE_STAGES)}"
        else:
            yield from _bad_keys(Compute, f"compute.{stage}", values, file)


def _matrix_problems(
    section: str, matrix: Sequence[str], target: str, values: Mapping[str, Any], file: Path
) -> Iterator[str]:
    found = _mapping(values, section)
    for axis in matrix:
        names = found.get(axis)
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            yield f"{section}.{axis} = {names!r}: Input should be a list of names"
        elif not names or len(set(names)) < len(names):
            yield f"{section}.{axis} = {names!r}: Input should name one or more, none twice"
    named = _names(values, f"{section}.{matrix[0]}") if matrix else ()
    for item in dict.fromkeys([*named, *(name for name in found if name not in matrix)]):
        yield from _bad_keys(_load(target), f"{section}.{item}", values, file)


def _bad_keys(
    section_class: type[Params], section: str, values: Mapping[str, Any], file: Path
) -> Sequence[str]:
    try:
        section_class.parse(section, values, file)
    except ParamsError as error:
        return error.problems
    return ()


def _disagreements(values: Mapping[str, Any]) -> Iterator[str]:
    """Say where sections that are good one by one do not fit together."""
    for key, source in _SAME:
        for backbone in _names(values, "train.backbones") if ".B" in key else [""]:
            one, other = (name.replace(".B", f".{backbone}") for name in (key, source))
            if (found := _at(values, one)) != (expected := _at(values, other)):
                yield f"{one} = {found!r}: {other} is {expected!r}, and they must be the same"
    yield from _unmade_models(values)
    trained, conditions = (
        _names(values, key) for key in ("train.backbones", "evaluate.conditions")
    )
    scored = {f"{backbone}-{condition}" for backbone in trained for condition in conditions}
    if (shown := _names(values, "report.names")) and set(shown) != scored:
        yield f"report.names = {shown}: the stage evaluate scores {sorted(scored)}"
    if set(candidates := _names(values, "register.candidates")) - scored:
        yield f"register.candidates = {candidates}: the stage evaluate scores {sorted(scored)}"
    yield from _unmeasured(values)
    networks = _names(values, "weights.networks")
    needed = [*trained, *_names(values, "plain.backbones"), "dinov3"]
    if missing := sorted(set(needed) - set(networks)):
        yield f"weights.networks = {networks}: {', '.join(missing)} is needed too"


def _unmeasured(values: Mapping[str, Any]) -> Iterator[str]:
    """Name the metrics that decide about the champion and are not computed."""
    measured = [*_names(values, "evaluate.metrics"), "identity_angle"]  # which always is, if it can
    rule = _mapping(_mapping(values, "register"), "promotion")
    named = {"better": _names(rule, "better"), "not_worse": list(_mapping(rule, "not_worse"))}
    for key, metrics in named.items():
        for metric in metrics:
            if metric not in measured:
                yield f"register.promotion.{key} = {metric!r}: evaluate.metrics lacks it"


def _unmade_models(values: Mapping[str, Any]) -> Iterator[str]:
    """Name the trained folders that a stage reads and none makes."""
    trained, plain = _names(values, "train.backbones"), _names(values, "plain.backbones")
    if set(trained) != (there := set(_mapping(values, "intermediates"))):
        found = sorted(there)
        yield f"intermediates has sections {found}: it needs those of train.backbones, {trained}"
    made = {f"{_at(values, f'plain.{backbone}.models')}/{backbone}-text" for backbone in plain}
    for backbone in trained:
        key = f"intermediates.{backbone}.model"
        if (model := _at(values, key)) not in made:
            yield f"{key} = {model!r}: the stage plain makes {sorted(made)}"
    for condition in _names(values, "evaluate.conditions"):
        if condition == "text" and (missing := sorted(set(trained) - set(plain))):
            yield f"evaluate.conditions = 'text': plain.backbones lacks {', '.join(missing)}"
        elif condition not in ("text", *_names(values, "train.conditions")):
            yield f"evaluate.conditions = {condition!r}: train.conditions does not train it"


def _at(values: Any, key: str) -> Any:
    for name in key.split("."):
        values = values.get(name) if isinstance(values, Mapping) else None
    return values


def _names(values: Mapping[str, Any], key: str) -> list[str]:
    found = _at(values, key)
    return [name for name in found if isinstance(name, str)] if isinstance(found, list) else []


def _load(target: str) -> type[Params]:
    module, _, name = target.partition(":")
    found: type[Params] = getattr(import_module(module), name)
    return found


def _mapping(values: Mapping[str, Any], section: str) -> Mapping[str, Any]:
    found = values.get(section)
    return found if isinstance(found, Mapping) else {}
