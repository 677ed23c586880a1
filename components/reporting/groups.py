"""Scores by group of faces: a user's own columns (age, skin tone), or what degraded them.

    file,age,glasses          groups.csv, beside the pictures or given by name
    anna.jpg,30-39,no

A group differs if its faces differ from all others beyond chance, by a permutation test. Many
groups are looked at, so the p-values are corrected for that (Holm): the chance that any group is
called different by accident is at most 5 %.
"""

import bisect
import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from components.keyed_random import generator
from components.metrics import bootstrap
from components.reporting.face_sets import row_name

Column = Mapping[str, str]  # a face's name, or that of one degradation of it -> group

PERMUTATIONS = 10_000
_LEVEL = 0.05


def parse(text: str) -> dict[str, dict[str, str]]:
    """Read a `groups.csv`: column -> face's name -> group. Empty cells are of no group.

    Raises: ValueError if there is no column `file`, no other one, or a face is named twice.
    """
    reader = csv.DictReader(io.StringIO(text))
    names = list(reader.fieldnames or [])
    if "file" not in names or len(names) < 2:
        raise ValueError(
            f"groups.csv has the columns {names}: it needs 'file' and at least one more"
        )
    columns: dict[str, dict[str, str]] = {name: {} for name in names if name != "file"}
    seen: set[str] = set()
    for row in reader:
        face = row_name(row["file"], 0)
        if face in seen:
            raise ValueError(f"groups.csv, line {reader.line_num}: {row['file']} is there twice")
        seen.add(face)
        for name, groups in columns.items():
            if value := (row[name] or "").strip():
                groups[face] = value
    return columns


def add(
    result: Mapping[str, Any],
    columns: Mapping[str, Column],
    *,
    samples: int,
    seed: int,
    role: str = "restored",
) -> dict[str, Any]:
    """Return a metrics file with the groups of each face, their scores, and what got worse.

    `columns` is column -> name -> group. A name is that of a face, or, for what holds for one
    degradation of it, of a row (`row_name`).
    """
    faces = [{**face, "groups": _groups_of(face, columns)} for face in result["faces"]]
    grouped = {**result, "faces": faces}
    return {
        **grouped,
        "groups": compare(grouped, samples=samples, seed=seed, role=role),
        "worse": {
            name: worse(result, name, metric["better"])
            for name, metric in result["metrics"].items()
            if name in faces[0]["scores"]
        },
    }


def _groups_of(face: Mapping[str, Any], columns: Mapping[str, Column]) -> dict[str, str]:
    names = (row_name(face["face_id"], face["variant"]), row_name(face["face_id"], 0))
    found = {
        column: next((groups[name] for name in names if name in groups), None)
        for column, groups in columns.items()
    }
    return {column: group for column, group in found.items() if group is not None}


def compare(
    result: Mapping[str, Any], *, samples: int, seed: int, role: str = "restored"
) -> list[dict[str, Any]]:
    """Return per metric, column and group: mean and interval of its faces, and whether it differs.

    Beside the restored faces' numbers stand those of the degraded ones and of the gain, if there
    are any. `p` is corrected over all rows; `differs` is whether it is below 5 %. Groups of one
    face are listed without a test.
    """
    columns = dict.fromkeys(column for face in result["faces"] for column in face["groups"])
    rows = [
        {"metric": metric, "column": column, **row}
        for metric in _metrics(result, role)
        for column in columns
        for row in _rows(result["faces"], metric, column, role, samples=samples, seed=seed)
    ]
    tested = [row for row in rows if row["p"] is not None]
    for row, p in zip(tested, holm([row["p"] for row in tested]), strict=True):
        row["p"] = p
    return [{**row, "differs": row["p"] is not None and row["p"] < _LEVEL} for row in rows]


def _metrics(result: Mapping[str, Any], role: str) -> list[str]:
    scored = result["faces"][0]["scores"]
    return [name for name in result["metrics"] if role in scored.get(name, {})]


def _rows(
    faces: Sequence[Mapping[str, Any]],
    metric: str,
    column: str,
    role: str,
    *,
    samples: int,
    seed: int,
) -> list[dict[str, Any]]:
    roles = [role]
    if role == "restored" and "degraded" in faces[0]["scores"][metric]:
        roles += ["degraded"]
    known = [
        (face["face_id"], face["groups"][column], [face["scores"][metric][one] for one in roles])
        for face in faces
        if column in face["groups"]
    ]
    units = _units([row for row in known if None not in row[2]])
    groups = np.array([group for _, group, _ in units])
    values_UK = np.array([values for _, _, values in units], dtype=np.float64)
    found = []
    for group in sorted(set(groups)):
        inside = groups == group
        owners = [face_id for (face_id, _, _), is_in in zip(units, inside, strict=True) if is_in]
        numbers = _intervals(owners, values_UK[inside], roles, samples=samples, seed=seed)
        is_tested = numbers[role]["n"] > 1 and inside.sum() < len(units) - 1
        p = permutation_p(values_UK[:, 0], inside, seed=seed) if is_tested else None
        others = {name: numbers[name] for name in numbers if name != role}
        found.append({"group": str(group), **numbers[role], **others, "p": p})
    return found


_Unit = tuple[str, str, list[float]]  # a face's id, its group, its scores by role


def _units(rows: Sequence[_Unit]) -> list[_Unit]:
    """Return what a permutation may exchange: faces, each the mean of its degradations.

    If the degradations of a face are in different groups, each of them: they were drawn
    independently of the face.
    """
    groups: dict[str, set[str]] = {}
    scores: dict[tuple[str, str], list[list[float]]] = {}
    for face_id, group, values in rows:
        groups.setdefault(face_id, set()).add(group)
        scores.setdefault((face_id, group), []).append(values)
    if any(len(one) > 1 for one in groups.values()):
        return list(rows)
    return [
        (face_id, group, [float(mean) for mean in np.mean(values, axis=0)])
        for (face_id, group), values in scores.items()
    ]


def _intervals(
    owners: Sequence[str],
    values_UK: npt.NDArray[np.float64],
    roles: Sequence[str],
    *,
    samples: int,
    seed: int,
) -> dict[str, dict[str, Any]]:
    """Return role, and `gain` if both are there -> mean, low, high and n over different faces."""
    faces = np.array(owners)
    by_face_FK = np.array([values_UK[faces == face].mean(axis=0) for face in dict.fromkeys(owners)])
    names = list(roles)
    if len(names) > 1:
        gain_F1 = by_face_FK[:, :1] - by_face_FK[:, 1:]
        by_face_FK, names = np.concatenate([by_face_FK, gain_F1], axis=1), [*names, "gain"]
    drawn = bootstrap.intervals(by_face_FK, samples=samples, seed=seed)
    return {name: asdict(interval) for name, interval in zip(names, drawn, strict=True)}


def permutation_p(
    values: npt.NDArray[np.float64], inside: npt.NDArray[np.bool_], *, seed: int
) -> float:
    """Return how often a random group of this size differs from the others by as much or more."""
    random = generator(seed, "groups", 0, "permutation")
    number, rest = int(inside.sum()), int((~inside).sum())
    total = values.sum()

    def difference(sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.asarray(np.abs(sums / number - (total - sums) / rest), np.float64)

    observed = difference(np.array([values[inside].sum()]))[0]
    drawn = np.array([random.permutation(values)[:number].sum() for _ in range(PERMUTATIONS)])
    as_large = (difference(drawn) >= observed - 1e-12).sum()
    return float((as_large + 1) / (PERMUTATIONS + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number: the smallest times n, the next times n - 1, and so on."""
    order, corrected, largest = np.argsort(p_values, kind="stable"), [0.0] * len(p_values), 0.0
    for place, index in enumerate(order):
        largest = max(largest, min(1.0, p_values[index] * (len(p_values) - place)))
        corrected[index] = largest
    return corrected


def severity_of(drawn: Mapping[str, float]) -> dict[str, float]:
    """Return how much a face was degraded, from the columns of a table of pairs.

    `blur` is the geometric mean of the blur's two sigmas, in pixels; `scale` is how many times the
    face was made smaller; `noise` is sigma, of 255; `jpeg` is the quality, of which less is worse.
    """
    return {
        "blur": math.sqrt(drawn["sigma_x"] * drawn["sigma_y"]),
        "scale": drawn["scale"],
        "noise": drawn["noise_sigma"],
        "jpeg": drawn["jpeg_quality"],
    }


def severity(drawn: Mapping[str, Mapping[str, float]], *, parts: int = 3) -> dict[str, Column]:
    """Divide rows by each number of their degradation (blur, noise, …) into parts of equal size.

    `drawn` is row's name -> number's name -> value. Equal values are in one part.
    """
    columns: dict[str, Column] = {}
    for name in dict.fromkeys(name for numbers in drawn.values() for name in numbers):
        rows = {row: numbers[name] for row, numbers in drawn.items() if name in numbers}
        values = sorted(rows.values())
        if len(values) < 2 * parts or values[0] == values[-1]:
            continue
        bounds = [values[len(values) * part // parts] for part in range(1, parts)]
        inside: dict[int, list[float]] = {}
        for value in values:
            inside.setdefault(bisect.bisect_right(bounds, value), []).append(value)
        titles = {
            part: f"{number}: {members[0]:.3g} to {members[-1]:.3g}"
            for number, (part, members) in enumerate(inside.items(), start=1)
        }
        columns[name] = {row: titles[bisect.bisect_right(bounds, rows[row])] for row in rows}
    return columns


def worse(result: Mapping[str, Any], metric: str, direction: str) -> list[dict[str, Any]]:
    """List the faces that the restoration made worse than the degraded ones, the worst first."""
    sign = 1 if direction == "higher" else -1
    gains = [
        {"face_id": face["face_id"], "variant": face["variant"], "gain": restored - degraded}
        for face in result["faces"]
        if (restored := face["scores"].get(metric, {}).get("restored")) is not None
        and (degraded := face["scores"][metric].get("degraded")) is not None
        and sign * (restored - degraded) < 0
    ]
    return sorted(gains, key=lambda face: sign * float(face["gain"]))
