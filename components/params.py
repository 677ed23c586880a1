"""Typed parameters: `params.yaml` is checked when a stage starts, and a wrong value is named.

A stage declares one `Params` class for its section. A component's section is declared beside the
component's code and nested in the stage's. `Compute` says where the work runs.
"""

import difflib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    TypeAdapter,
)
from pydantic import ValidationError as _Invalid
from pydantic_core import PydanticKnownError

PARAMS_FILE = Path("params.yaml")
_LONGEST_VALUE = 80  # characters of a bad value that a message repeats


class ParamsError(ValueError):
    """Parameters that cannot be used; the message names every bad key with its value."""

    def __init__(self, file: Path, problems: Sequence[str]) -> None:
        self.file, self.problems = file, tuple(problems)
        if len(problems) == 1:
            super().__init__(f"{file}: {problems[0]}")
        else:
            super().__init__("\n  ".join([f"{file}: fix {len(problems)} key(s)", *problems]))


class Params(BaseModel):
    """A section of `params.yaml`: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def load(cls, section: str, file: Path = PARAMS_FILE) -> Self:
        """Read and check one section, given by its dotted name (`train.sd21`).

        Raises: ParamsError naming the file, each bad key, its value and what is wrong with it.
        """
        return cls.parse(section, read(file), file)

    @classmethod
    def parse(cls, section: str, values: Mapping[str, Any], file: Path = PARAMS_FILE) -> Self:
        """Check one section of `values`, the content of `file`. Raises: ParamsError."""
        found: Any = values
        reached: list[str] = []
        for key in section.split("."):
            if not isinstance(found, Mapping) or key not in found:
                there = [str(name) for name in found] if isinstance(found, Mapping) else []
                known = f"{', '.join(there)}{nearest(key, there)}" if there else "no sections"
                where = f"'{'.'.join(reached)}'" if reached else "the file"
                missing = ".".join([*reached, key])
                raise ParamsError(file, [f"{missing}: section is missing; {where} has {known}"])
            reached.append(key)
            found = found[key]
        try:
            return cls.model_validate(found)
        except _Invalid as error:
            raise ParamsError(file, list(_problems(section, error))) from error


def one_of(names: Collection[str]) -> AfterValidator:
    """Make a type of names: a value must be in `names` at the time of the check.

    So a family needs only its entry in a dict: `Annotated[str, one_of(FAMILIES)]`.
    """

    def check(name: str) -> str:
        if name not in names:
            *most, last = map(repr, names)
            expected = f"{', '.join(most)} or {last}" if most else last
            raise PydanticKnownError("literal_error", {"expected": expected})
        return name

    return AfterValidator(check)


def check_value(key: str, value: Any, its_type: Any) -> list[str]:
    """Check one value against a type; return what is wrong, in the words of a section's check."""
    try:
        TypeAdapter(its_type).validate_python(value)
    except _Invalid as error:
        return list(_problems(key, error))
    return []


def nearest(name: str, names: Collection[str]) -> str:
    """Return "did you mean ...?" with the most similar name; empty if none is similar."""
    found = difflib.get_close_matches(name, names, n=1)
    return f": did you mean {found[0]!r}?" if found else ""


def _checked_workers(value: object) -> object:
    match value:
        case int() if value >= 1 and not isinstance(value, bool):
            return value
        case [int(fewest), int(most)] if 1 <= fewest <= most:
            return fewest, most
    raise ValueError("expected a number of workers from 1, or [min, max] with 1 <= min <= max")


# The workers of a training: this many, or as many as fit between two numbers.
Workers = Annotated[int | tuple[int, int], BeforeValidator(_checked_workers)]
# The batch of a training with [min, max] workers while there are fewer than max: still that of max
# workers, of which each takes more, or one batch per worker. It does not matter for a fixed number.
ElasticBatch = Literal["global", "per_worker"]


Recomputable = Literal["generator", "decoder", "losses", "discriminator"]


class Compute(Params):
    """Where a stage's work runs; it changes no result, so neither DVC nor a fingerprint sees it."""

    workers: PositiveInt | None = None  # None: as many as the cluster has CPUs for
    gpus: NonNegativeFloat = 0  # per worker
    cpus: PositiveFloat = 1  # per worker
    memory: PositiveFloat | None = None  # GiB per worker, reserved; None: Ray does not count it
    # For a training with [min, max] workers: how long it waits for all of them, at the start and
    # when one is lost, and how long it keeps fewer before it grows, at least.
    start_wait_s: PositiveFloat = 120
    resize_interval_s: NonNegativeFloat = 300
    # For a training: how long it may stand still until its workers that are behind are ended. A
    # sixth of it is how long until they are named. Longer than what is slow but works: a model is
    # downloaded, a checkpoint is stored.
    stall_limit_s: PositiveFloat = 1800
    # For a training: parts that compute their activations again in the backward pass instead of
    # keeping them. Less memory, more time.
    recompute: tuple[Recomputable, ...] = ()
    # For a training with `parallel: fsdp`: weights, gradients and moments stay in host memory, and
    # a block's weights are on the GPU only while it computes.
    offload: bool = False

    @classmethod
    def load_compute(cls, stage: str, file: Path = PARAMS_FILE) -> Self:
        """Read the section `compute.<stage>`. Raises: ParamsError."""
        return cls.load(f"compute.{stage}", file)

    @classmethod
    def of_command(cls, stage: str, file: Path = PARAMS_FILE) -> Self:
        """Return where a command works that does the same as a stage: as that, if there is a file.

        Commands also run in folders without parameters. Raises: ParamsError.
        """
        return cls.load_compute(stage, file) if file.is_file() else cls()


def read(file: Path = PARAMS_FILE) -> dict[str, Any]:
    """Read the whole file, unchecked. Raises: ParamsError if it is missing or no mapping."""
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ParamsError(file, ["no such file: run 'hdrface config use tiny'"]) from error
    except yaml.YAMLError as error:
        raise ParamsError(file, [f"not YAML: {' '.join(str(error).split())}"]) from error
    if not isinstance(values, dict):
        raise ParamsError(file, [f"expected sections, got {_shown(values)}"])
    return values


def _problems(section: str, error: _Invalid) -> Iterator[str]:
    for detail in error.errors(include_url=False):
        key = ".".join([section, *map(str, detail["loc"])])
        message = detail["msg"].removeprefix("Value error, ")
        value = detail["input"]
        if detail["type"] == "literal_error":
            message += nearest(str(value), re.findall(r"'([^']+)'", detail["ctx"]["expected"]))
        # A missing key, or a rule over several keys, arrives with the whole section as its value.
        shown = "" if isinstance(value, Mapping | BaseModel) else f" = {_shown(value)}"
        yield f"{key}{shown}: {message}"


def _shown(value: Any) -> str:
    text = str(value) if isinstance(value, int | float | Path) else repr(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 1]}…"
