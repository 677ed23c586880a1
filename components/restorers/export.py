"""Write a restorer's networks in a format that runs without this project, and measure them there.

What the folder holds: `components.restorers.by_export`.
"""

import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from components.files import write_json
from components.fusion.condition import TextCondition
from components.restorers.by_export import EXPORT, Export, Format, PartRecord
from components.restorers.folder import load_alone
from components.restorers.hdrface import HDRFace
from components.restorers.parts import Part, check, parts_of
from components.weights.manifest import records_of
from components.weights.prompt import PROMPT_FILE
from components.weights.store import carried, open_model

# Of the largest number in an output. Half a step of an 8-bit picture is 2e-3.
LARGEST_DIFFERENCE = 1e-3
OPSET = 18
MOST_ROWS = 63  # in a batch of torch.export's: diffusers enlarges 64 rows or more in another way


@dataclass(frozen=True)
class Written:
    """A part that was written: its largest difference, relative to the output's largest number."""

    name: str
    file: Path
    num_bytes: int
    difference: float

    @property
    def is_equal(self) -> bool:
        """Return whether it stays within LARGEST_DIFFERENCE; a NaN does not."""
        return self.difference <= LARGEST_DIFFERENCE


def export(folder: Path, form: Format, out: Path) -> list[Written]:
    """Export a trained folder, run each part, and compare it with the restorer's own network.

    `out` appears when all parts are written, and only if all are equal to their originals.

    Raises: FileExistsError if `out` is there; FileNotFoundError or ValueError if the folder cannot
        be opened or is not exported.
    """
    if out.exists():
        raise FileExistsError(f"{out} is there already: name a new folder")
    restorer = load_alone(folder, carried(folder))
    check(restorer)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as beside:
        place = Path(beside) / out.name
        place.mkdir()
        parts, written = {}, []
        for part in parts_of(restorer):
            one = write(part, form, place)
            parts[part.name] = _record(part, one)
            written.append(one)
        if isinstance(restorer.condition, TextCondition):
            save_file({"prompt": restorer.condition.prompt_LC}, place / PROMPT_FILE)
        description = _describe(
            restorer, form, parts, open_model(folder).content["licences"], place
        )
        write_json(place / EXPORT, description.model_dump(mode="json"))
        if all(one.is_equal for one in written):
            place.rename(out)
    return written


def _describe(
    restorer: HDRFace,
    form: Format,
    parts: dict[str, PartRecord],
    licences: list[str],
    place: Path,
) -> Export:
    backbone: Any = restorer.backbone
    return Export(
        format=form,
        name=restorer.name,
        source=restorer.fingerprint,
        restorer=restorer.spec,
        alpha_bar=backbone.alpha_bar,
        scaling=backbone.vae.config.scaling_factor,
        patches_per_side=None if restorer.encoder is None else restorer.encoder.patches_per_side,
        parts=parts,
        licences=licences,
        files=records_of(place),
    )


def _record(part: Part, written: Written) -> PartRecord:
    return PartRecord(
        file=written.file.name,
        inputs={name: list(value.shape[1:]) for name, value in part.inputs.items()},
        outputs=list(part.outputs),
        largest_difference=written.difference,
    )


def write(part: Part, form: Format, place: Path) -> Written:
    """Write a part into a folder, run it, and compare it with the restorer's own network."""
    way = _WAYS[form]
    file = place / f"{part.name}{way.suffix}"
    with warnings.catch_warnings():
        # Of branches that are recorded one way, and of the exporter's age: the result is measured.
        warnings.simplefilter("ignore")
        way.write(part, file)
    got = way.run(file, {name: value[:1] for name, value in part.inputs.items()})
    difference = max(
        float((one - wanted).abs().max() / wanted.abs().max())
        for one, wanted in zip(got, part.expected, strict=True)
    )
    num_bytes = sum(one.stat().st_size for one in place.glob(f"{file.name}*"))
    return Written(part.name, file, num_bytes, difference)


def _write_onnx(part: Part, file: Path) -> None:
    import onnx

    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        scattered = Path(folder) / file.name  # above 2 GB with a file for each tensor
        torch.onnx.export(
            part.module,
            tuple(part.inputs.values()),
            str(scattered),  # of a Path, the exporter writes no other files
            dynamo=False,  # the newer exporter needs onnxscript
            opset_version=OPSET,
            input_names=list(part.inputs),
            output_names=list(part.outputs),
            dynamic_axes={name: {0: "batch"} for name in (*part.inputs, *part.outputs)},
        )
        network = onnx.load(scattered)
    data = file.with_name(f"{file.name}.data")
    onnx.save(network, file, save_as_external_data=True, location=data.name)
    data.chmod(file.stat().st_mode)  # onnx lets only its owner read it


def _run_onnx(file: Path, inputs: Mapping[str, Tensor]) -> list[Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    wanted = {one.name for one in session.get_inputs()}  # `dino` and `lr` use one kind of tokens
    given = {name: value.numpy() for name, value in inputs.items() if name in wanted}
    return [torch.from_numpy(one) for one in session.run(None, given)]


def _write_torch(part: Part, file: Path) -> None:
    batch = torch.export.Dim("batch", min=1, max=MOST_ROWS)
    program = torch.export.export(
        part.module,
        tuple(part.inputs.values()),
        dynamic_shapes=tuple({0: batch} for _ in part.inputs),
    )
    torch.export.save(program, file)


def _run_torch(file: Path, inputs: Mapping[str, Tensor]) -> list[Tensor]:
    with torch.no_grad():
        found = torch.export.load(file).module()(*inputs.values())
    return list(found) if isinstance(found, tuple | list) else [found]


class _Way(NamedTuple):
    suffix: str
    write: Callable[[Part, Path], None]
    run: Callable[[Path, Mapping[str, Tensor]], list[Tensor]]


_WAYS: Mapping[Format, _Way] = {
    "onnx": _Way(".onnx", _write_onnx, _run_onnx),
    "torch-export": _Way(".pt2", _write_torch, _run_torch),
}
