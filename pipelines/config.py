"""Compose `params.yaml` from the profiles in `conf/`, and check it before anything runs.

`hdrface config use PROFILE` and `dvc exp run -S profile=PROFILE` compose the same file: both let
Hydra merge `conf/base.yaml` (every key there is) with `conf/profile/PROFILE.yaml` (its values).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from components.params import PARAMS_FILE, Compute, Params, ParamsError, read

CONF = Path("conf")

# Which class checks which section. Named, not imported: some modules need seconds to import.
SECTIONS = {
    "samples": "pipelines.samples:SamplesParams",
    "faces": "pipelines.faces:FacesParams",
    "degrade": "pipelines.degrade:DegradeParams",
    "evaluate": "pipelines.evaluate:EvaluateParams",
    "report": "pipelines.report:ReportParams",
    "serve": "pipelines.serve:ServeParams",
    "register": "pipelines.register:RegisterParams",
}
# The same for a section that holds one section an item of its stage's matrix, beside the axes of
# that matrix (lists of names).
MATRIX_SECTIONS = {
    "weights": (("networks",), "pipelines.weights:WeightsParams"),
    "restorer": (("backbones",), "pipelines.restorer:RestorerParams"),
    "restore": ((), "pipelines.restore:RestoreParams"),
    "features": ((), "pipelines.features:FeaturesParams"),
    "train": (("backbones", "conditions"), "pipelines.train:TrainParams"),
}
COMPUTE_STAGES = ("faces", "degrade", "restorer", "restore", "features", "train", "evaluate")

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
    ("restore.B.pairs", "degrade.pairs"),
    ("features.B.pairs", "degrade.pairs"),
    ("features.B.restorations", "restore.B.restorations"),
    ("features.B.weights", "weights.B.out"),
    ("features.B.encoder", "weights.dinov3.out"),
    ("train.B.pairs", "degrade.pairs"),
    ("train.B.features", "features.B.features"),
    ("train.B.weights", "features.B.weights"),
    ("train.B.encoder", "features.B.encoder"),
    ("train.B.encoder_size", "features.B.encoder_size"),
    ("train.B.intermediate", "restore.B.model"),
    ("train.B.models", "evaluate.models"),
)


def profiles(conf: Path = CONF) -> list[str]:
    """Return the names of all profiles. Raises: ValueError if there is no `conf/` here."""
    found = sorted(path.stem for path in (conf / "profile").glob("*.yaml"))
    if not found:
        raise ValueError(f"{conf / 'profile'} has no profiles: run this in the project's folder")
    return found


def compose(profile: str, overrides: Sequence[str] = (), conf: Path = CONF) -> str:
    """Return the YAML text of one profile with `key=value` overrides in Hydra's grammar.

    A value that Hydra's grammar cannot read (a path with umlauts or quotes) is taken as it stands.

    Raises: ValueError for an unknown profile or key.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if profile not in (known := profiles(conf)):
        raise ValueError(f"no profile '{profile}' in {conf}: choose from {', '.join(known)}")
    quoted = [_quoted(override) for override in overrides]
    # The same version_base and the same writer as DVC's own composition.
    with initialize_config_dir(str(conf.resolve()), version_base=None):
        try:
            config = hydra_compose("config", overrides=[f"profile={profile}", *quoted])
            OmegaConf.resolve(config)
        except (HydraException, OmegaConfBaseException) as error:
            raise ValueError(" ".join(str(error).split())) from error
    return OmegaConf.to_yaml(config)


def use(
    profile: str, overrides: Sequence[str] = (), *, file: Path = PARAMS_FILE, conf: Path = CONF
) -> None:
    """Write `params.yaml` from a profile; it is whole or untouched."""
    text = compose(profile, overrides, conf)
    header = (
        f"# Composed from {conf.name}/ by 'hdrface config use {profile}', and written over by the\n"
        "# next one or by 'dvc exp run'. What each key means stands in conf/base.yaml.\n"
    )
    beside = file.with_name(f"{file.name}.new")
    beside.write_text(header + text, encoding="utf-8")
    beside.replace(file)


def check(profile: str | None = None, *, file: Path = PARAMS_FILE, conf: Path = CONF) -> None:
    """Check every section of `params.yaml`, or of a profile, and what sections must agree on.

    Raises: ParamsError naming every bad key at once.
    """
    if profile is None:
        check_values(read(file), file)
    else:
        check_values(yaml.safe_load(compose(profile, conf=conf)), conf / f"profile/{profile}.yaml")


def check_values(values: Mapping[str, Any], file: Path) -> None:
    """Check a whole set of parameters, the content of `file`. Raises: ParamsError."""
    problems = [*_section_problems(values, file), *_disagreements(values)]
    if problems:
        raise ParamsError(file, problems)


def _quoted(override: str) -> str:
    """Quote a value that Hydra's grammar refuses, takes for a sweep, or reads as another text."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import QuotedString
    from hydra.errors import HydraException

    key, equals, value = override.partition("=")
    if not equals or not re.fullmatch(r"\+{0,2}[\w.@/-]+", key):
        raise ValueError(f"'{override}' is not of the form key=value")
    try:
        parsed = OverridesParser.create().parse_override(override)
        is_typed = isinstance(parsed._value, QuotedString) or not isinstance(parsed.value(), str)
        if not parsed.is_sweep_override() and (is_typed or parsed.value() == value):
            return override
    except HydraException:
        pass
    # Inside quotes, a run of backslashes is halved where a quote follows, and nowhere else.
    escaped = re.sub(r"(\\*)('|$)", lambda run: 2 * run[1] + run[2].replace("'", r"\'"), value)
    return f"{key}='{escaped}'"


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
    needed = [*trained, *_names(values, "restorer.backbones"), "dinov3"]
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
    trained, plain = _names(values, "train.backbones"), _names(values, "restorer.backbones")
    if set(trained) != (there := set(_mapping(values, "restore"))):
        yield f"restore has sections {sorted(there)}: it needs those of train.backbones, {trained}"
    made = {f"{_at(values, f'restorer.{backbone}.models')}/{backbone}-text" for backbone in plain}
    for backbone in trained:
        if (model := _at(values, f"restore.{backbone}.model")) not in made:
            yield f"restore.{backbone}.model = {model!r}: the stage restorer makes {sorted(made)}"
    for condition in _names(values, "evaluate.conditions"):
        if condition == "text" and (missing := sorted(set(trained) - set(plain))):
            yield f"evaluate.conditions = 'text': restorer.backbones lacks {', '.join(missing)}"
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
