"""The one form of all stages, and what starts them.

A stage is a module of this package with `SECTION`, where its parameters are in `params.yaml`, and

    run(params, compute, *items)

`params` has the stage's own class of parameters. Only a stage whose work runs on workers has
`compute`, and with it a section `compute.STAGE`. The items are those of the stage's matrix in
`dvc.yaml`, in the same order; `SECTION` may hold one of them (`train.{backbone}`). The starter
reads all of this from `run`'s signature: a type that is written there is checked here. A module
ends with

    if __name__ == "__main__":
        stage.start("pipelines.train")

It starts the module by its name: Ray's workers look functions up there, and have another
`__main__`.
"""

import argparse
import inspect
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Self, get_type_hints

from components import logs
from components.assets.asset import at
from components.params import Compute, Params, check_value, read

# In the order of the line.
STAGES = (
    *("samples", "faces", "weights", "degrade", "plain", "intermediates"),
    *("features", "train", "evaluate", "report", "register"),
)

# What begins the line. `weights` does not wait: it is what gets some of the assets.
_FIRST = ("samples", "faces")


@dataclass(frozen=True)
class Stage:
    """What a stage's module says about itself."""

    name: str
    help: str
    run: Callable[..., object]
    section: str  # of its parameters: `evaluate`, `train.{backbone}`
    params: type[Params]
    takes_compute: bool
    items: Mapping[str, Any]  # the type of each, by name

    @classmethod
    def load(cls, name: str) -> Self:
        """Import a stage's module, which may take seconds, and read its form."""
        module = import_module(f"{__package__}.{name}")
        types = get_type_hints(module.run, include_extras=True)
        parameters = inspect.signature(module.run).parameters.values()
        positional = [one.name for one in parameters if one.kind is one.POSITIONAL_OR_KEYWORD]
        params, *rest = positional
        return cls(
            name=name,
            help=module.__doc__ or "",
            run=module.run,
            section=module.SECTION,
            params=types[params],
            takes_compute="compute" in rest,
            items={item: types[item] for item in rest if item != "compute"},
        )

    @property
    def head(self) -> str:
        """The top key of `params.yaml` below which the stage's parameters are: `train`."""
        return self.section.partition(".")[0]

    @property
    def per(self) -> str | None:
        """The item of which each has a section of its own, if there is one: `backbone`."""
        return self.section.partition(".")[2].strip("{}") or None

    def run_with(self, items: Mapping[str, str]) -> None:
        """Read the parameters of these items, given by name, and run the stage.

        Raises: ParamsError; AssetsMissingError if the parameters require that all assets are here,
            and one is not; FileNotFoundError if `evaluate.groups` is not; what the stage raises.
        """
        params = self.params.load(self.section.format_map(items))
        compute = [Compute.load_compute(self.name)] if self.takes_compute else []
        _check_groups(read())
        if self.name in _FIRST and read().get("require_assets") is True:
            from components.assets import listing  # it imports torch

            listing.require(read())
        self.run(params, *compute, **items)


def start(module: str, words: Sequence[str] | None = None) -> None:
    """Run a stage with the items on the command line, checked against their types.

    A mistake that a person can mend, in the command, the parameters or the inputs, is told in words
    with exit code 2. Any other error keeps its trace.
    """
    logs.configure()
    stage = Stage.load(module.rpartition(".")[2])
    items = _items(stage, sys.argv[1:] if words is None else words)
    try:
        stage.run_with(items)
    except Exception as error:
        if not is_mistake(error):
            raise
        told = [f"{stage.name}: {error}", *getattr(error, "__notes__", ())]
        sys.stderr.writelines(f"{line}\n" for line in told)
        raise SystemExit(2) from None


def _check_groups(values: Mapping[str, Any]) -> None:
    """Refuse a table of groups that is not there: DVC would say so after the training only.

    Raises: FileNotFoundError.
    """
    file = at(values, "evaluate.groups")
    if isinstance(file, str) and not Path(file).is_file():
        raise FileNotFoundError(
            f"evaluate.groups = {file}: no such file; put it there, or name conf/groups.csv, which "
            "has no groups"
        )


def _items(stage: Stage, words: Sequence[str]) -> dict[str, str]:
    """Read a stage's items from the command line, or end with code 2 and say what it takes."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {__package__}.{stage.name}",
        description=stage.help,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for item in stage.items:
        parser.add_argument(item, metavar=item.upper())
    items: dict[str, str] = vars(parser.parse_args(words))
    for item, value in items.items():
        for problem in check_value(item, value, stage.items[item]):
            parser.error(problem)
    return items


def is_mistake(error: Exception) -> bool:
    """Tell whether a person can mend an error, so that its message is enough.

    A ValueError counts if our own code raised it: one from a library is a fault of ours until shown
    otherwise.
    """
    from components.ray_training.distributed import TrainingError
    from components.tables.making import ShardError
    from components.tables.unfinished import LockedError
    from components.tracking.outages import TrackingError

    if isinstance(error, ValueError):
        *_, (innermost, _) = traceback.walk_tb(error.__traceback__)
        module: str = innermost.f_globals["__name__"]
        return module.startswith(("components.", f"{__package__}."))
    # The last two repeat an error of a worker, and have its trace as a note.
    return isinstance(error, OSError | TrackingError | LockedError | ShardError | TrainingError)
