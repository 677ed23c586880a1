"""`hdrface plan`: what the trainings of a profile take, before anyone rents GPUs for them.

Networks are built from their sizes on the meta device, so neither weights nor pictures are needed.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from components import console, profiles
from components.params import PARAMS_FILE, Compute, read
from pipelines.stage import Stage

if TYPE_CHECKING:
    from components.training.blueprint import Counted
    from components.training.training_params import TrainingParams
    from components.training.ways import Estimate

_GB, _TERA = 1e9, 1e12
_FFHQ = 70_000


def plan(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Changes of the profile, in Hydra's grammar."),
    ] = None,
    profile: Annotated[
        str | None, typer.Option(help="A profile of conf/ instead of params.yaml.")
    ] = None,
    gpus: Annotated[int, typer.Option(min=1, help="Number of GPUs.")] = 8,
    memory: Annotated[float, typer.Option(min=1, help="Memory of one GPU, GB.")] = 80,
    tflops: Annotated[
        float, typer.Option(min=1, help="Peak of one GPU in bfloat16, TFLOP/s; an H100's is 989.")
    ] = 989,
    share: Annotated[
        float, typer.Option(min=0.01, max=1, help="Share of the peak that a training reaches.")
    ] = 0.35,
    faces: Annotated[
        int, typer.Option(min=1, help="Faces in the source; FFHQ has 70,000.")
    ] = _FFHQ,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Say what the trainings of a profile need: memory, operations, hours, disk."""
    if overrides and profile is None:
        raise ValueError(f"{overrides[0]}: changes belong to a profile: add --profile NAME")
    values, file = _parameters(profile, overrides or ())
    card: Any = {"gpus": gpus, "memory_gb": memory, "tflops": tflops, "share": share}
    found = {
        "profile": values["profile"],
        **card,
        "trainings": [
            _planned(values, file, stage, backbone, condition, faces=faces, **card)
            for stage, backbone, condition in _trainings(values)
        ],
    }
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        _print(found)


def _parameters(profile: str | None, overrides: Sequence[str]) -> tuple[Mapping[str, Any], Path]:
    import yaml

    if profile is None:
        return read(PARAMS_FILE), PARAMS_FILE
    text = profiles.compose(profile, overrides)
    return yaml.safe_load(text), profiles.CONF / "profile" / f"{profile}.yaml"


def _trainings(values: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """List stage, backbone and condition of each training, in the order of the line."""
    for backbone in values["plain"]["backbones"]:
        yield "plain", backbone, "text"
    for backbone in values["train"]["backbones"]:
        for condition in values["train"]["conditions"]:
            yield "train", backbone, condition


def _planned(
    values: Mapping[str, Any],
    file: Path,
    stage: str,
    backbone: str,
    condition: str,
    *,
    faces: int,
    gpus: int,
    memory_gb: float,
    tflops: float,
    share: float,
) -> dict[str, Any]:
    from components.training import ways
    from components.training.blueprint import blueprint
    from components.training.memory import checkpoint_bytes
    from components.training.training_params import TrainingParams

    section = f"{stage}.{backbone}"
    params = Stage.load(stage).params.parse(section, values, file)
    if not isinstance(params, TrainingParams):
        raise TypeError(f"{section} is no training")
    compute = Compute.parse(f"compute.{stage}", values, file)
    known: Any = condition  # checked with the section `train`
    counted = blueprint(params, backbone, known, _sizes(values, file, params, backbone))
    speed = {"memory_bytes": memory_gb * _GB, "flops": tflops * _TERA * share}
    found = ways.ways(params, compute, section, gpus)
    estimates = [ways.estimate(counted, params, way, **speed) for way in found]
    chosen = ways.choose(estimates)
    rows = _rows(values, backbone, faces) if counted.row_bytes else 0
    return {
        "training": f"{stage}@{backbone}" + ("" if stage == "plain" else f"-{condition}"),
        "size": values["faces"]["size"],
        "tokens": counted.num_tokens,
        "steps": params.optimization.steps,
        "parts": [_part(one) for one in counted.parts],
        "parameters": sum(one.parameters for one in counted.parts),
        "trained": sum(one.part.trained for one in counted.parts),
        "tflop_per_row": counted.step / _TERA,
        "before": [_part(one) for one in counted.once],
        "checkpoint_gb": checkpoint_bytes(ways.parts_of(counted)) / _GB,
        "table_rows": rows,
        "table_gb": rows * counted.row_bytes / _GB,
        "ways": [_way(one) for one in estimates],
        "overrides": None if chosen is None else list(chosen.way.overrides),
        "cheapest": None if chosen is None else chosen.way.name,
    }


def _sizes(values: Mapping[str, Any], file: Path, params: "TrainingParams", backbone: str) -> Any:
    from components.training.blueprint import Sizes

    needs_opponent = params.opponent() is not None
    encoder_side = getattr(params, "encoder_size", None)
    features: Any = Stage.load("features").params.parse(f"features.{backbone}", values, file)
    return Sizes(
        side=values["faces"]["size"],
        backbone=_network(values, file, backbone),
        discriminator=_network(values, file, f"{backbone}-discriminator")
        if needs_opponent
        else None,
        encoder=None if encoder_side is None else _network(values, file, "dinov3"),
        encoder_side=encoder_side,
        tokens=features.tokens,
    )


def _network(values: Mapping[str, Any], file: Path, name: str) -> Mapping[str, Any]:
    """Return the sizes of one network: a stand-in's own, or the published ones."""
    from components.weights.published_sizes import published_sizes

    weights: Any = Stage.load("weights").params.parse(f"weights.{name}", values, file)
    if weights.published is not None:
        return published_sizes(weights.published)
    return weights.stand_in.model_dump()  # type: ignore[no-any-return]


def _rows(values: Mapping[str, Any], backbone: str, faces: int) -> int:
    """Return the rows of a table of features: train faces, each variant, perhaps mirrored too."""
    train: float = faces * (1 - values["faces"]["test_percent"] / 100)
    variants: int = values["degrade"]["variants"]
    return round(train) * variants * (2 if values["features"][backbone]["mirror"] else 1)


def _part(counted: "Counted") -> dict[str, Any]:
    return {
        "name": counted.part.name,
        "parameters": counted.parameters,
        "trained": counted.part.trained,
        "forward_tflop": counted.cost.forward / _TERA,
        "step_tflop": counted.cost.step / _TERA,
        "activations_gb": counted.cost.kept.everything / _GB,
        "recomputed_activations_gb": counted.cost.kept.boundaries / _GB,
    }


def _way(estimate: "Estimate") -> dict[str, Any]:
    way, memory = estimate.way, estimate.memory
    return {
        "name": way.name,
        "overrides": list(way.overrides),
        "gpus": way.num_gpus,
        "rows_per_step": estimate.rows,
        "weights_gb": memory.weights / _GB,
        "gradients_gb": memory.gradients / _GB,
        "optimizer_gb": memory.optimizer / _GB,
        "activations_gb": memory.activations / _GB,
        "reserved_gb": memory.reserved / _GB,
        "gpu_gb": memory.total / _GB,
        "all_gpus_gb": memory.total * way.num_gpus / _GB,
        "host_gb": memory.host * way.num_gpus / _GB,
        "step_tflop": estimate.step_flop / _TERA,
        "hours": estimate.hours,
        "fits": estimate.fits,
    }


def _print(found: Mapping[str, Any]) -> None:
    out = console.stdout(soft_wrap=False, highlight=False, markup=False)
    out.print(
        f"{found['profile']} on {found['gpus']} x {found['memory_gb']:g} GB, "
        f"{found['share']:.0%} of {found['tflops']:g} TFLOP/s in bfloat16"
    )
    for training in found["trainings"]:
        out.print()
        out.print(
            f"{training['training']}: {training['size']} x {training['size']} pixels, "
            f"{training['tokens']} tokens, {training['steps']:,} steps"
        )
        out.print(_parts_table(training))
        out.print(_ways_table(training))
        for line in _conclusions(found, training):
            out.print(line)
    out.print()
    out.print(_NOTES)


_NOTES = """\
TFLOP: a multiply-add counts as 2; forward and step are of one row, counted on the real modules. A
frozen network's backward pass leaves out the gradients of its weights: low-rank layers cost about
2.2 forward passes, full training 3. Where activations are computed again, one more is added.
float32 is counted with a fifteenth of the peak, an H100's without TF32.
Activations are counted in float32; in bfloat16 they are an estimate, 0.65 of that. 3 GB of a GPU
are reserved for CUDA, communication and fragmentation. Reading, communication and offload take
time that is not counted, so hours are a lower bound."""


def _parts_table(training: Mapping[str, Any]) -> Any:
    table = _table("part", "parameters", "trained", "forward", "step", "activations", "recompute")
    table.title = "TFLOP and GB of one row"
    for kind in ("parts", "before"):
        for part in training[kind]:
            table.add_row(
                part["name"],
                _count(part["parameters"]),
                _count(part["trained"]),
                _number(part["forward_tflop"]),
                _number(part["step_tflop"]),
                *(_number(part[f"{name}activations_gb"]) for name in ("", "recomputed_")),
            )
        if kind == "parts":
            numbers = (_count(training[name]) for name in ("parameters", "trained"))
            table.add_section()
            table.add_row("a step", *numbers, "", _number(training["tflop_per_row"]), "", "")
            table.add_section()
            if training["before"]:
                table.add_row("once, for the table:", *[""] * 6)
    return table


def _ways_table(training: Mapping[str, Any]) -> Any:
    numbers = ("weights", "gradients", "optimizer", "activations", "gpu", "all_gpus", "host")
    shown = ("weights", "grads", "moments", "activations", "one GPU", "all GPUs", "host")
    table = _table("", *shown, "fits", "GPUs", "rows", "hours")
    table.title = "GB on each GPU; each way adds to those above, but weights are sharded or of bf16"
    for way in training["ways"]:
        table.add_row(
            way["name"],
            *(_number(way[f"{name}_gb"]) for name in numbers),
            "yes" if way["fits"] else "no",
            str(way["gpus"]),
            str(way["rows_per_step"]),
            _number(way["hours"]),
        )
    return table


def _table(name: str, *titles: str) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, title_justify="left", padding=(0, 0, 0, 1))
    table.add_column(name, no_wrap=True)
    for title in titles:
        table.add_column(title, no_wrap=True, justify="right")
    return table


def _conclusions(found: Mapping[str, Any], training: Mapping[str, Any]) -> Iterator[str]:
    yield f"A checkpoint has {_number(training['checkpoint_gb'])} GB."
    if training["table_rows"]:
        yield (
            f"The table of features has {training['table_rows']:,} rows: "
            f"{_number(training['table_gb'])} GB of tokens and latents."
        )
    asked = training["ways"][0]["rows_per_step"]
    if any(way["rows_per_step"] != asked for way in training["ways"]):
        yield f"The profile's steps have {asked} rows; ways with other rows learn otherwise."
    if training["cheapest"] is None:
        yield f"Nothing fits {found['memory_gb']:g} GB: take more GPUs, or train low-rank layers."
        return
    words = " ".join(_quoted(override) for override in training["overrides"])
    yield f"The fastest that fits: {training['cheapest']}."
    yield f"  hdrface config use {found['profile']} {words}".rstrip()


def _quoted(override: str) -> str:
    return f"'{override}'" if "[" in override else override


def _count(number: int) -> str:
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.4g} {unit}"
    return str(number) if number else "–"


def _number(value: float) -> str:
    if value == 0:
        return "–"
    if value < 0.01:
        return "<0.01"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
