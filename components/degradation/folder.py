"""Degrade the pictures of a folder: write LQ twins as PNG files to another folder.

For a look at a recipe, or for a test set that other programs read. A picture is degraded at its own
size: nothing is detected or aligned. A twin has the picture's path with the suffix `.png` (variants
1, 2, ...: `.1.png`, `.2.png`; where two pictures would get one name, the old suffix stays:
`a.jpg.png`). `degradations.csv` says what was drawn. If the recipe also changes the HQ target
(unsharp mask, grey), the target is in the folder `hq`.
"""

import csv
import errno
import logging
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from components import images
from components.console import printable
from components.degradation import recipe as degradation
from components.degradation.recipe import DegradationParams
from components.faces.source import Picture, open_source

log = logging.getLogger(__name__)

RECORD = "degradations.csv"
Row = dict[str, str | float]


class Rejected(NamedTuple):
    file: str
    reason: str


class Degraded(NamedTuple):
    """The result for a folder."""

    num_pictures: int  # used
    rejected: list[Rejected]


def degrade_folder(
    source: str | Path, out: Path, *, recipe: DegradationParams, seed: int, variants: int = 1
) -> Degraded:
    """Degrade every picture of a folder or S3 prefix into the new folder `out`.

    A picture's name is its key: its degradation does not depend on the other pictures.
    `out` appears when it is complete.

    Raises: ValueError if `variants` is below 1 or no picture can be used; SourceError if there is
    none; FileExistsError if `out` is not empty.
    """
    if variants < 1:
        raise ValueError(f"variants = {variants}: at least 1 is needed")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} is there already: name a new folder")
    folder = open_source(str(source))
    pictures = folder.pictures()
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as beside:
        unfinished = Path(beside) / "out"
        unfinished.mkdir()
        rejected: list[Rejected] = []
        rows: list[Row] = []
        for picture, stem in zip(pictures, _stems(pictures), strict=True):
            try:
                hq = images.decode(folder.read(picture))
                for variant in range(variants):
                    file = f"{stem}.{variant}.png" if variant else f"{stem}.png"
                    drawn = degradation.draw(
                        recipe, hq.shape[:2], seed=seed, face_id=picture.name, variant=variant
                    )
                    _write_pair(unfinished, file, hq, degradation.make_pair(hq, drawn, recipe))
                    record = drawn.record()
                    rows.append({"file": file, "of": picture.name, "variant": variant, **record})
            except Exception as error:
                if getattr(error, "errno", None) == errno.ENOSPC:
                    raise  # the disk is full for all that follow
                reason = str(getattr(error, "strerror", None) or error) or type(error).__name__
                log.warning("%s is left out: %s", picture.name, reason)
                rejected.append(Rejected(picture.name, reason))
        if not rows:
            first = rejected[0]
            raise ValueError(
                f"no usable picture in {source}: {len(rejected)} were rejected,"
                f" {printable(first.file)}: {first.reason}"
            )
        _write_rows(unfinished / RECORD, rows)
        unfinished.replace(out)  # also over an empty folder
    num_pictures = len({row["of"] for row in rows})
    log.info("%d pictures degraded, %d rejected: %s", num_pictures, len(rejected), out)
    return Degraded(num_pictures, rejected)


def _stems(pictures: Sequence[Picture]) -> list[str]:
    paths = [PurePosixPath(picture.name) for picture in pictures]
    count = Counter(path.with_suffix("") for path in paths)
    return [
        str(path if count[path.with_suffix("")] > 1 else path.with_suffix("")) for path in paths
    ]


def _write_pair(folder: Path, file: str, hq: images.Image, pair: degradation.Pair) -> None:
    _write(folder / file, pair.lq)
    if pair.hq is not hq:
        _write(folder / "hq" / file, pair.hq)


def _write_rows(file: Path, rows: Sequence[Row]) -> None:
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.DictWriter(opened, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _write(file: Path, image: images.Image) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("xb") as opened:  # if two pictures share a name after all, the command stops
        opened.write(images.encode_png(image))
