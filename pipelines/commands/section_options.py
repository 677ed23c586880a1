"""Command-line options made from sections of parameters: their schema is typed once."""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import typer
from pydantic import ValidationError

from components.param_fields import ParamField, fields_of
from components.params import Params


def with_section_options(command: Callable[..., None]) -> Callable[..., None]:
    """Make one option for each field of the sections that a command takes.

    A parameter whose type is a `Params` class is replaced by that section's fields; the command
    then gets the section, checked. Other parameters stay as they are.

    Raises: ValueError naming each wrong option, when the command is called.
    """
    sections: dict[str, type[Params]] = {}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        section = parameter.annotation
        if isinstance(section, type) and issubclass(section, Params):
            sections[parameter.name] = section
            parameters += map(_parameter, fields_of(section))
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    @functools.wraps(command)
    def call(**values: Any) -> None:
        command(**_with_sections(sections, values))

    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {one.name: one.annotation for one in parameters}
    return call


def _parameter(field: ParamField) -> inspect.Parameter:
    option = typer.Option(field.default, _switch(field), metavar=_metavar(field), help=_help(field))
    return inspect.Parameter(
        field.name, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=field.type
    )


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _switch(field: ParamField) -> str:
    """Return an option's name; what is on by default gets a second one that turns it off."""
    name = _flag(field.name)
    return f"{name}/--no-{name[2:]}" if field.type is bool and field.default else name


def _metavar(field: ParamField) -> str | None:
    """Return what stands for the value in a help page; None: the name of its type."""
    if field.choices:
        return "|".join(field.choices)
    return "FILE" if field.type is Path else None


def _help(field: ParamField) -> str:
    if field.low is None:
        return field.description
    if field.high is None:
        return f"{field.description} At least {field.low:g}."
    return f"{field.description} From {field.low:g} to {field.high:g}."


def _with_sections(
    sections: Mapping[str, type[Params]], values: Mapping[str, Any]
) -> dict[str, Any]:
    """Put the values of the sections' fields into sections. Raises: ValueError."""
    rest, problems = dict(values), list[str]()
    for name, section in sections.items():
        own = {field: rest.pop(field) for field in section.model_fields}
        try:
            rest[name] = section.model_validate(own)
        except ValidationError as error:
            problems += _problems(error)
    if problems:
        raise ValueError("; ".join(problems))
    return rest


def _problems(error: ValidationError) -> Iterator[str]:
    for one in error.errors(include_url=False):
        words = [_flag(str(one["loc"][0]))]
        match one["input"]:
            case bool():  # a flag has no value
                pass
            case float(number):
                words.append(f"{number:g}")
            case other:
                words.append(str(other))
        yield f"{' '.join(words)}: {one['msg'].removeprefix('Value error, ')}"
