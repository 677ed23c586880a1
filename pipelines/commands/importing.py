"""`hdrface import`: make a restorer folder of what others have published or restored."""

from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from components import console
from pipelines.commands.inspect import contents


class Layout(StrEnum):
    """What is imported: HDRFace's or OSDFace's own weights, or another project's restorer."""

    SD21 = "sd21"
    QWEN = "qwen"
    OSDFACE = "osdface"
    SPANDREL = "spandrel"
    ONNX = "onnx"
    FOLDER = "folder"


Source = Annotated[
    Path, typer.Argument(metavar="PATH", help="The authors' folder, a checkpoint, or results.")
]
As = Annotated[
    Layout,
    typer.Option(
        "--as",
        help="HDRFace's own weights for SD 2.1 or Qwen-Image; OSDFace's; a checkpoint that "
        "spandrel reads (GFPGAN, RestoreFormer, CodeFormer); an ONNX file, or a folder of "
        "'hdrface export'; a folder of faces that any program restored.",
    ),
]
Out = Annotated[
    Path, typer.Option("-o", "--out", metavar="DIR", help="The restorer folder to write.")
]
Base = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="The backbone's weights, such as data/weights/sd21; for the first three.",
    ),
]
Encoder = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="DINOv3's weights, such as data/weights/dinov3; not of OSDFace."
    ),
]
Intermediate = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="The first restorer, a trained folder. Without one, first restorations come with "
        "the faces; not of OSDFace.",
    ),
]
Size = Annotated[int, typer.Option(min=1, help="Pixels of a face.")]


def import_published(
    source: Source,
    layout: As,
    out: Out,
    base: Base = None,
    encoder: Encoder = None,
    intermediate: Intermediate = None,
    size: Size = 512,
) -> None:
    """Make a restorer folder of what others have published or restored."""
    from components.restorers.catalogue import adopt
    from components.restorers.import_osdface import import_osdface
    from components.restorers.import_qwen import import_qwen
    from components.restorers.import_sd21 import import_sd21

    # A layout is one line here, and one in Layout.
    importers = {
        Layout.SD21: import_sd21,
        Layout.QWEN: import_qwen,
        Layout.OSDFACE: import_osdface,
    }
    if layout not in importers:
        if base or encoder or intermediate:
            raise ValueError(f"--as {layout} takes no --base, --encoder or --intermediate")
        adopt(f"{layout}:{source}", out)
        _print(contents(out), {})
        return
    if base is None:
        raise ValueError(f"--as {layout} needs the backbone's weights: add --base DIR")
    num_tensors = importers[layout](
        source, out, base=base, encoder=encoder, intermediate=intermediate, size=size
    )
    _print(contents(out), num_tensors)


def _print(found: Mapping[str, Any], num_tensors: Mapping[str, int]) -> None:
    """Print what was written, what it needs, and the command that restores with it."""
    from rich.table import Table

    table = Table(show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for row in _rows(found, num_tensors):
        table.add_row(*row)
    console.stdout(highlight=False, markup=False).print(table)


def _rows(found: Mapping[str, Any], num_tensors: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    yield "folder", found["folder"]
    yield "fingerprint", found["fingerprint"]
    if num_tensors:
        read = "\n".join(f"{name}: {count}" for name, count in num_tensors.items())
        yield "tensors read", f"{read}\nin all: {sum(num_tensors.values())}"
    for need in found["needs"]:
        place = need["found"] or f"not found: {need['why']}"
        yield f"needs {need['role']}", f"{need['name']} {need['fingerprint'][:12]}: {place}"
    yield "licences", "\n".join(found["licences"])
    yield (
        "use",
        f"hdrface restore photos -o restored --model {found['folder']} --detector FILE.onnx",
    )
