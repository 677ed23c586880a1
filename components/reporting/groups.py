"""Scores by group of faces: a user's own columns (age, skin tone), or what degraded them.

    file,age,glasses          groups.csv, beside the pictures or given by name
    anna.jpg,30-39,no

A group differs if its faces differ from all others beyond chance, by a permutation test. Many
groups are looked at, so the p-values are corrected for that (Holm): the chance that any group is
called different by accident is at most 5 %.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from components.keyed_random import generator
from components.metrics import bootstrap
from components.reporting.face_sets import row_name

Column = Mapping[str, str]  # face's name -> group

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


def compare(
    result: Mapping[str, Any],
    columns: Mapping[str, Column],
    *,
    samples: int,
    seed: int,
    role: str = "restored",
) -> list[dict[str, Any]]:
    """Return per metric, column and group: mean and interval of its faces, and whether it differs.

    `p` is corrected over all rows; `differs` is whether it is below 5 %. Groups of one face are
    listed without a test.
    """
    rows = [
        {"metric": metric, "column": column, **row}
        for metric in _metrics(result, role)
        for column, groups in columns.items()
        for row in _rows(_by_face(result, metric, role), groups, samples=samples, seed=seed)
    ]
    tested = [row for row in rows if row["p"] is not None]
    for row, p in zip(tested, holm([row["p"] for row in tested]), strict=True):
        row["p"] = p
    return [{**row, "differs": row["p"] is not None and row["p"] < _LEVEL} for row in rows]


def _metrics(result: Mapping[str, Any], role: str) -> list[str]:
    scored = result["faces"][0]["scores"]
    return [name for name in result["metrics"] if role in scored.get(name, {})]


def _by_face(result: Mapping[str, Any], metric: str, role: str) -> dict[str, float]:
    scores: dict[str, list[float]] = {}
    for face in result["faces"]:
        value = face["scores"][metric][role]
        if value is not None:
            scores.setdefault(row_name(face["face_id"], 0), []).append(value)
    return {face: float(np.mean(values)) for face, values in scores.items()}


def _rows(
    scores: Mapping[str, float], groups: Column, *, samples: int, seed: int
) -> list[dict[str, Any]]:
    known = [face for face in scores if face in groups]
    values = np.array([scores[face] for face in known])
    labels = np.array([groups[face] for face in known])
    found = []
    for label in sorted(set(groups.values())):
        inside = labels == label
        if not inside.any():
            continue
        (interval,) = bootstrap.intervals(values[inside, None], samples=samples, seed=seed)
        p = permutation_p(values, inside, seed=seed) if 1 < inside.sum() < len(values) - 1 else None
        found.append({"group": label, **asdict(interval), "p": p})
    return found


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


def severity(drawn: Mapping[str, Mapping[str, float]], *, parts: int = 3) -> dict[str, Column]:
    """Divide faces by each number of their degradation (blur, noise, …) into equal parts.

    `drawn` is face's name -> number's name -> value.
    """
    columns: dict[str, Column] = {}
    for name in dict.fromkeys(name for numbers in drawn.values() for name in numbers):
        faces = sorted((numbers[name], face) for face, numbers in drawn.items() if name in numbers)
        if len(faces) < 2 * parts or faces[0][0] == faces[-1][0]:
            continue
        bounds = [len(faces) * part // parts for part in range(parts + 1)]
        columns[name] = {
            face: f"{part + 1}: {faces[low][0]:.3g} to {faces[high - 1][0]:.3g}"
            for part, (low, high) in enumerate(pairwise(bounds))
            for _, face in faces[low:high]
        }
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
