"""Ablations: variants of `params.yaml` to compare, from `conf/experiment/NAME.yaml`."""

import itertools
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import Field

from components import params
from components.params import Params, ParamsError, nearest
from components.profiles import CONF, in_quotes

log = logging.getLogger(__name__)

_BACKBONE = "BACKBONE"  # in keys, values and names: each backbone that is trained


@dataclass(frozen=True)
class Variant:
    """One set of parameters, and the restorer folders of `models` that are scored for it."""

    name: str
    models: tuple[str, ...]  # in the order of the backbones
    values: Mapping[str, Any]  # all parameters

    def overrides(self, base: Mapping[str, Any]) -> list[str]:
        """Return what differs from `base`, as `KEY=VALUE` in Hydra's grammar."""
        return list(_differences(base, self.values, ""))


@dataclass(frozen=True)
class Ablation:
    """Variants, and the name of the one that the others are compared with."""

    name: str
    choice: str
    variants: tuple[Variant, ...]


class _VariantFile(Params):
    model: str
    change: dict[str, Any]


class _AblationFile(Params):
    choice: str
    variants: dict[str, _VariantFile] = Field(min_length=1)


def names(conf: Path = CONF) -> list[str]:
    """Return the names of the ablations that `conf` describes."""
    return sorted(file.stem for file in (conf / "experiment").glob("*.yaml"))


def read(name: str, values: Mapping[str, Any], conf: Path = CONF) -> Ablation:
    """Read an ablation of these parameters. Raises: ValueError naming the file and the key."""
    if name not in (known := names(conf)):
        there = ", ".join(known)
        raise ValueError(
            f"no ablation '{name}': {conf / 'experiment'} has {there}{nearest(name, known)}"
        )
    file = conf / "experiment" / f"{name}.yaml"
    content = _AblationFile.parse(name, {name: params.read(file)}, file)
    if content.choice not in content.variants:
        raise ParamsError(file, [f"choice = {content.choice!r}: there is no such variant"])
    backbones = values["train"]["backbones"]
    variants: list[Variant] = []
    for title, variant in content.variants.items():
        try:
            changed = _changed(values, _for_each(variant.change, backbones))
        except ValueError as error:
            raise ParamsError(file, [f"variants.{title}.change: {error}"]) from error
        models = tuple(variant.model.replace(_BACKBONE, backbone) for backbone in backbones)
        made = Variant(title, models, _scored(changed, models))
        same = next((each.name for each in variants if each.values == made.values), None)
        if same is None:
            variants.append(made)
        else:
            log.info("%s: %s has the parameters of %s and is left out", name, title, same)
    return Ablation(name, content.choice, tuple(variants))


def whole(values: Mapping[str, Any]) -> Ablation:
    """Return the parameters as they are, as an ablation of one variant, to be swept."""
    models = tuple(values["report"]["names"])
    return Ablation("sweep", "", (Variant("", models, values),))


def swept(ablation: Ablation, sweeps: Sequence[str]) -> Ablation:
    """Return every variant with every combination of swept values.

    `sweeps` are `KEY=V1,V2`, the values as in YAML. The choice is the former one with the first of
    each.

    Raises: ValueError if a text is no sweep, or there is no such parameter.
    """
    axes = dict(_axis(text) for text in sweeps)
    combinations = [
        dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())
    ]
    variants = [
        Variant(
            _name(variant.name, chosen),
            variant.models,
            _scored(_changed(variant.values, chosen), variant.models),
        )
        for variant in ablation.variants
        for chosen in combinations
    ]
    return Ablation(ablation.name, _name(ablation.choice, combinations[0]), tuple(variants))


def _axis(text: str) -> tuple[str, list[Any]]:
    key, equals, values = text.partition("=")
    try:
        found = yaml.safe_load(f"[{values}]")
    except yaml.YAMLError as error:
        raise ValueError(f"{text}: {values!r} is no list of values: {error}") from error
    if not equals or not found:
        raise ValueError(f"{text!r} is not of the form KEY=V1,V2")
    return key, found


def _name(variant: str, chosen: Mapping[str, Any]) -> str:
    """Return a name that git takes: `sdfm-rank-16`."""
    words = [variant, *(f"{key.rpartition('.')[2]}-{value}" for key, value in chosen.items())]
    return re.sub(r"[^A-Za-z0-9_.]+", "-", "-".join(words)).strip("-.")


def _for_each(change: Mapping[str, Any], backbones: Sequence[str]) -> dict[str, Any]:
    """Write every change out for each backbone, if it is about one."""
    return {
        key.replace(_BACKBONE, backbone): json.loads(json.dumps(value).replace(_BACKBONE, backbone))
        for key, value in change.items()
        for backbone in (backbones if _BACKBONE in key else [""])
    }


def _changed(values: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters with some of them changed; a value may refer to another parameter."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    config = OmegaConf.create(dict(values))
    OmegaConf.set_struct(config, True)
    for key, value in change.items():
        try:
            OmegaConf.update(config, key, value, merge=False)
            OmegaConf.resolve(config)
        except (OmegaConfBaseException, AttributeError, TypeError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{key} = {value!r}: {reason}") from error
    return cast("dict[str, Any]", OmegaConf.to_container(config))


def _scored(values: Mapping[str, Any], models: Sequence[str]) -> dict[str, Any]:
    """Return the parameters with these models to be scored, and no other."""
    return {
        **values,
        "report": {**values["report"], "names": list(models)},
        "register": {**values["register"], "candidates": list(models)},  # of those that are scored
    }


def _differences(base: Any, changed: Any, key: str) -> Iterator[str]:
    if isinstance(base, Mapping) and isinstance(changed, Mapping):
        for name in [*changed, *(name for name in base if name not in changed)]:
            inner = f"{key}.{name}" if key else name
            if name not in changed:
                yield f"~{inner}"
            elif name not in base:
                yield f"+{inner}={_literal(changed[name])}"
            else:
                yield from _differences(base[name], changed[name], inner)
    elif base != changed or type(base) is not type(changed):
        yield f"{key}={_literal(changed)}"


def _literal(value: Any) -> str:
    """Write a value in Hydra's grammar."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{name}:{_literal(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_literal, value)) + "]"
    if isinstance(value, str):
        return in_quotes(value)
    return json.dumps(value)
