"""The fields of a section of parameters, for code that shows them: a command line, a web page."""

from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from components.params import Params


@dataclass(frozen=True)
class ParamField:
    """One field of a section."""

    name: str
    description: str  # in sentences
    type: type  # bool, int, float, str or Path
    default: Any  # None: the value may be missing
    choices: tuple[str, ...]  # empty: any value of the type
    low: float | None  # None: there is no bound
    high: float | None


def fields_of(section: type[Params]) -> list[ParamField]:
    """Read the fields of a section, in their order; all have a default."""
    return [_read(name, info) for name, info in section.model_fields.items()]


def _read(name: str, info: FieldInfo) -> ParamField:
    annotation: Any = info.annotation
    is_union = get_origin(annotation) in (Union, UnionType)
    [kind] = [
        one for one in (get_args(annotation) if is_union else [annotation]) if one is not NoneType
    ]
    choices = get_args(kind) if get_origin(kind) is Literal else ()
    bounds = {
        key: getattr(rule, key)
        for rule in info.metadata
        for key in ("ge", "gt", "le")
        if hasattr(rule, key)
    }
    return ParamField(
        name=name,
        description=info.description or "",
        type=str if choices else kind,
        default=info.default,
        choices=choices,
        low=bounds.get("ge", bounds.get("gt")),
        high=bounds.get("le"),
    )
