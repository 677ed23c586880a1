"""`hdrface restore`: restore the faces of photographs and videos, print what became of each."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from pydantic import ValidationError

from components import console
from components.params import Params
from pipelines.commands.arguments import TrainedModel

if TYPE_CHECKING:
    from components.photographs.restore_files import Result

Section = TypeVar("Section", bound=Params)


def restore(
    inputs: Annotated[
        list[str], typer.Argument(metavar="INPUT...", help="Files, folders, or patterns in quotes.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="For the results.")],
    model: TrainedModel,
    detector: Annotated[
        Path | None, typer.Option(metavar="FILE", help="An ONNX file: SCRFD or YuNet.")
    ] = None,
    aligned: Annotated[
        bool, typer.Option("--aligned", help="Each picture is one aligned face.")
    ] = False,
    only_center_face: Annotated[
        bool, typer.Option("--only-center-face", help="Leave all other faces.")
    ] = False,
    min_face: Annotated[int, typer.Option(help="Leave narrower faces, in pixels.")] = 16,
    fidelity: Annotated[float, typer.Option(help="0 to 1; lower invents more (qwen).")] = 1.0,
    color_fix: Annotated[
        str | None, typer.Option(help="none, wavelet or adain; otherwise the backbone decides.")
    ] = None,
    scale: Annotated[float, typer.Option(help="Enlarge the whole picture, 1 to 4.")] = 1.0,
    upscaler: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A super-resolution checkpoint for that.")
    ] = None,
    identity_network: Annotated[
        Path | None, typer.Option(metavar="FILE", help="An ONNX file, for identity angles.")
    ] = None,
    max_angle: Annotated[
        float | None, typer.Option(help="Flag a face whose identity turns by more degrees.")
    ] = None,
    leave_flagged: Annotated[
        bool, typer.Option("--leave-flagged", help="Leave flagged faces as they were.")
    ] = False,
    file_format: Annotated[
        str | None, typer.Option("--format", help="jpeg, png or webp; otherwise the input's.")
    ] = None,
    quality: Annotated[int, typer.Option(help="Of JPEG and WebP, 1 to 100.")] = 95,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave out inputs whose result is there.")
    ] = False,
    batch_size: Annotated[int, typer.Option(help="Faces that are restored at once.")] = 8,
) -> None:
    """Restore the faces of photographs with a trained model, and write a record of each face."""
    from components import logs
    from components.photographs import restore_files
    from components.photographs.restoration import RestoreOptions

    logs.configure()
    results, size = restore_files.run(
        inputs,
        checked(
            restore_files.Output,
            folder=out,
            format=file_format,
            quality=quality,
            skip_existing=skip_existing,
        ),
        restore_files.Tools(model, detector, identity_network, upscaler, batch_size),
        checked(
            RestoreOptions,
            aligned=aligned,
            only_center_face=only_center_face,
            min_face=min_face,
            fidelity=fidelity,
            color_fix=color_fix,
            scale=scale,
            max_angle=max_angle,
            leave_flagged=leave_flagged,
        ),
    )
    print_table(results, size)
    if any(result.status == "failed" for result in results):
        raise typer.Exit(1)


def checked(section: type[Section], **values: object) -> Section:
    """Give parameters from a command line. Raises: ValueError naming each wrong option."""
    try:
        return section.model_validate(values)
    except ValidationError as error:
        wrong = [
            f"--{str(one['loc'][0]).replace('_', '-')} {one['input']}: "
            f"{one['msg'].removeprefix('Value error, ')}"
            for one in error.errors(include_url=False)
        ]
        raise ValueError("; ".join(wrong)) from error


def print_table(results: Sequence["Result"], model_size: int) -> None:
    """Print what became of each input on stdout."""
    from rich import box
    from rich.table import Table

    statuses = Counter(result.status for result in results)
    told = ", ".join(f"{count} {status}" for status, count in statuses.items())
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"{len(results)} files: {told}; faces restored at {model_size} x {model_size}",
        title_justify="left",
    )
    table.add_column("file", overflow="fold")
    for column in ("faces", "restored", "flagged", "largest angle"):
        table.add_column(column, justify="right")
    table.add_column("what became of it", overflow="fold")
    for result in results:
        table.add_row(result.input, *_counts(result.record), _told(result))
    console.stdout(markup=False).print(table)


def _counts(record: Mapping[str, Any] | None) -> list[str]:
    if record is None:
        return ["–"] * 4
    faces = record["tracks"] if "tracks" in record else record["faces"]
    angles = [face["angle"] for face in faces if face["angle"] is not None]
    return [
        str(len(faces)),
        str(record["num_restored"]),
        str(sum(face["flagged"] for face in faces)),
        f"{max(angles):.1f}°" if angles else "–",
    ]


def _told(result: "Result") -> str:
    return f"{result.status}: {result.reason}" if result.reason else str(result.output)
