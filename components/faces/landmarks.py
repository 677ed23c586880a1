"""Five points of a face, and `landmarks.csv`, which may give them beside the pictures."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

FILE = "landmarks.csv"
POINTS = ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")  # left: of the picture
COLUMNS = ("file", "face", *(f"{point}_{axis}" for point in POINTS for axis in "xy"))

# (5, 2) float64 in the order of POINTS; pixels, (0, 0) is the centre of the top left pixel.
Landmarks: TypeAlias = npt.NDArray[np.float64]


class LandmarksError(ValueError):
    """A `landmarks.csv` cannot be used; the message names the row."""


def parse(text: str) -> dict[str, list[Landmarks]]:
    """Read a `landmarks.csv`: the faces of each file, in the order of its column `face`.

    Points are pixels of the picture after its EXIF orientation is applied.

    Raises: LandmarksError for a missing column, a value that is not a number, or a repeated face.
    """
    reader = csv.DictReader(io.StringIO(text))
    if missing := [column for column in COLUMNS if column not in (reader.fieldnames or ())]:
        raise LandmarksError(f"{FILE} has no column {', '.join(missing)}; it needs {COLUMNS}")
    faces: dict[str, dict[int, Landmarks]] = {}
    for row in reader:
        where = f"{FILE}, line {reader.line_num}"
        try:
            number = int(row["face"])
            points = np.array([float(row[column]) for column in COLUMNS[2:]]).reshape(5, 2)
        except (TypeError, ValueError) as error:
            raise LandmarksError(f"{where}: {error}") from error
        if not np.isfinite(points).all():
            raise LandmarksError(f"{where}: a point is not finite")
        if number in faces.setdefault(row["file"], {}):
            raise LandmarksError(f"{where}: face {number} of {row['file']} is given twice")
        faces[row["file"]][number] = points
    return {file: [given[number] for number in sorted(given)] for file, given in faces.items()}


def write(faces: Mapping[str, Iterable[Landmarks]]) -> str:
    """Write the text of a `landmarks.csv`; `parse` reads the same numbers to 1/1000 pixel."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(COLUMNS)
    for file, given in faces.items():
        for number, points in enumerate(given, start=1):
            rows.writerow([file, number, *(f"{value:.3f}" for value in points.ravel())])
    return text.getvalue()
