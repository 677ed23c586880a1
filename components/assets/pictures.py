"""The pictures of a run, and the network that finds faces in them."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from components.assets.asset import Asset, at, shown
from components.faces import landmarks
from components.faces.source import READABLE


class Found(NamedTuple):
    """The pictures of a folder."""

    number: int
    bytes: int


def pictures(values: Mapping[str, Any]) -> Iterator[Asset]:
    """List the source of the faces and the detector that it needs."""
    source = str(at(values, "faces.source"))
    if is_drawn(values):
        yield Asset("pictures", source, "made", "small", "LICENCES.txt beside them")
    elif source.startswith("s3://"):
        yield Asset("pictures", source, "not seen")
    elif (found := count(Path(source))).number:
        told = f"{found.number:,} files, {shown(found.bytes)}"
        yield Asset("pictures", source, "here", told, "theirs")
    else:
        yield Asset("pictures", source, "missing", remedy=no_pictures(source))
    yield from _detector(values, source)


def is_drawn(values: Mapping[str, Any]) -> bool:
    """Return whether the stage `samples` makes the pictures."""
    return Path(str(at(values, "faces.source"))) == Path(str(at(values, "samples.out")))


def no_pictures(source: str) -> str:
    """Return what to do about a folder without pictures."""
    return (
        f"put pictures into {source}, or name a folder or s3:// prefix that has some: "
        "hdrface config use PROFILE faces.source=DIR"
    )


def count(folder: Path) -> Found:
    """Count the pictures of a folder and below, by their names."""
    num_files = num_bytes = 0
    for place, _, files in os.walk(folder):
        for file in files:
            if file.lower().endswith(READABLE) and not file.startswith("."):
                num_files += 1
                num_bytes += (Path(place) / file).lstat().st_size
    return Found(num_files, num_bytes)


def _detector(values: Mapping[str, Any], source: str) -> Iterator[Asset]:
    if at(values, "faces.aligned") or is_drawn(values) or source.startswith("s3://"):
        return
    detector = at(values, "faces.detector")
    if detector is None:
        if Path(source).is_dir() and not (Path(source) / landmarks.FILE).is_file():
            yield Asset(
                "detector",
                "none is named",
                "missing",
                remedy="set faces.detector to an SCRFD or YuNet ONNX file, or faces.aligned to "
                "true if every picture is an aligned face",
            )
    elif (file := Path(detector)).is_file():
        yield Asset("detector", detector, "here", shown(file.stat().st_size))
    else:
        yield Asset("detector", detector, "missing", remedy=f"put an ONNX file at {detector}")
