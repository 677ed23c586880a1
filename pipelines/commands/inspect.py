"""`hdrface inspect`: what a folder of networks contains, by its own description and by its files.

A trained folder: backbone, condition, sizes, parameters, where it comes from, licences, and whether
what it names by fingerprint is on this machine. A folder of weights: origin, licence, files, facts.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from components import console
from components.weights.manifest import RESTORER, Description
from components.weights.store import find_need, open_model, open_weights

_SHOWN_APART = (
    "needs",
    "licences",
    "lineage",
    "files",
    "fingerprint",
    "format",
    "facts",
    "licence",
)


def inspect(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A trained folder, or one of pretrained weights.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Say what a trained folder contains: backbone, condition, sizes, lineage, licences."""
    found = contents(folder)
    if as_json:
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        _print(found)


def contents(folder: Path) -> dict[str, Any]:
    """Gather what there is to say about a trained folder or a folder of weights."""
    description = Description.read(folder)
    is_restorer = description.file.name == RESTORER
    content = description.content
    root, wrong = _verify(folder, is_restorer=is_restorer)
    licences = content.get("licences", []) if is_restorer else [content["licence"]]
    return {
        "folder": str(folder),
        "what": "trained restorer" if is_restorer else "pretrained weights",
        "fingerprint": description.fingerprint,
        "wrong": wrong,
        "settings": {k: v for k, v in content.items() if k not in _SHOWN_APART},
        "facts": content.get("facts", {}),
        "parameters": _parameters(root, description.files),
        "bytes": sum(record.bytes for record in description.files.values()),
        "files": len(description.files),
        "needs": list(_needs(folder, description)),
        "licences": licences,
        "lineage": content.get("lineage", {}),
    }


def _verify(folder: Path, *, is_restorer: bool) -> tuple[Path, str | None]:
    """Read every byte; return where the files lie, and what is wrong: None, if nothing is."""
    try:
        if is_restorer:
            open_model(folder, every_byte=True)
            return folder, None
        return open_weights(folder, every_byte=True).root, None
    except (FileNotFoundError, ValueError) as error:
        return folder, str(error)


def _parameters(root: Path, files: Mapping[str, object]) -> dict[str, int]:
    """Count the numbers in each part: a folder (`unet`) or a file of its own (`fusion`)."""
    from safetensors import safe_open

    counts: Counter[str] = Counter()
    for relative in files:
        if not relative.endswith(".safetensors") or not (root / relative).is_file():
            continue
        part = relative.split("/")[0].removesuffix(".safetensors")
        with safe_open(root / relative, framework="numpy") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - a file, not a mapping
                count = 1
                for length in tensors.get_slice(name).get_shape():
                    count *= length
                counts[part] += count
    return dict(counts)


def _needs(folder: Path, description: Description, above: str = "") -> Iterator[dict[str, Any]]:
    """List what is named by fingerprint, and what that names in turn."""
    for role, need in description.needs.items():
        entry = {"role": above + role, "name": need["name"], "fingerprint": need["fingerprint"]}
        try:
            place = find_need(folder, need)
        except FileNotFoundError as error:
            yield {**entry, "found": None, "why": str(error)}
            continue
        yield {**entry, "found": str(place)}
        yield from _needs(place, Description.read(place), f"{above}{role}.")


def _print(found: Mapping[str, Any]) -> None:
    from rich.markup import escape
    from rich.table import Table

    out = console.stdout(highlight=False)
    summary = Table(
        title=escape(f"{found['what']}: {found['folder']}"), show_header=False, title_justify="left"
    )
    summary.add_column(style="bold")
    summary.add_column(overflow="fold")
    for key, value in _summary_rows(found):
        summary.add_row(key, escape(value))
    out.print(summary)
    if found["needs"]:
        needs = Table(title="named by fingerprint", title_justify="left")
        for column in ("role", "name", "fingerprint", "found"):
            needs.add_column(column, overflow="fold")
        for need in found["needs"]:
            place = escape(need["found"] or "") or "[bold red]not found[/]"
            needs.add_row(need["role"], need["name"], need["fingerprint"][:12], place)
        out.print(needs)
    for need in found["needs"]:
        if need["found"] is None:
            out.print(need["why"], style="red", markup=False)


def _summary_rows(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "fingerprint", found["fingerprint"]
    yield "files", f"{found['files']}, {found['bytes'] / 1e6:,.1f} MB"
    yield (
        "intact",
        "yes, every hash is right" if found["wrong"] is None else f"NO: {found['wrong']}",
    )
    yield from ((key, _shown(value)) for key, value in found["settings"].items())
    yield from ((key, _shown(value)) for key, value in found["facts"].items())
    parts = "\n".join(f"{part}: {count:,}" for part, count in found["parameters"].items())
    yield (
        "parameters",
        f"{parts}\nin all: {sum(found['parameters'].values()):,}" if parts else "none",
    )
    yield "licences", "\n".join(found["licences"])
    yield from ((f"lineage: {key}", _shown(value)) for key, value in found["lineage"].items())


def _shown(value: object) -> str:
    if isinstance(value, Mapping):
        return "\n".join(f"{key}: {_shown(inner)}" for key, inner in value.items())
    return str(value)
