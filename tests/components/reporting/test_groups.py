"""Groups of faces: intervals, a test against chance, and faces that got worse."""

from typing import Any

import numpy as np
import pytest

from components.reporting import comparison, groups
from components.reporting.scoring import FaceScores


def scored(restored: dict[str, float]) -> dict[str, Any]:
    rows = [
        FaceScores(face, 0, {"psnr": {"degraded": 20.0, "restored": value}})
        for face, value in restored.items()
    ]
    return comparison.result({}, {}, rows, {}, samples=50, seed=1)


def test_a_group_that_differs_is_found_and_one_that_does_not_is_not() -> None:
    random = np.random.default_rng(0)
    values = {f"p/{i}.jpg": 24 + random.normal() - (2 if i < 15 else 0) for i in range(60)}
    csv = "file,age,glasses\n" + "".join(
        f"p/{i}.jpg,{'old' if i < 15 else 'young'},{'yes' if i % 2 else 'no'}\n" for i in range(60)
    )
    rows = groups.compare(scored(values), groups.parse(csv), samples=200, seed=1)
    found = {(row["column"], row["group"]): row for row in rows}
    old = found["age", "old"]
    assert old["n"] == 15
    assert old["low"] < old["mean"] < old["high"] < found["age", "young"]["mean"]
    assert {key: row["differs"] for key, row in found.items()} == {
        ("age", "old"): True,
        ("age", "young"): True,
        ("glasses", "no"): False,
        ("glasses", "yes"): False,
    }


def test_holms_correction_is_that_of_the_textbook() -> None:
    assert groups.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_what_a_groups_file_lacks_is_said() -> None:
    with pytest.raises(ValueError, match="it needs 'file' and at least one more"):
        groups.parse("name,age\na,1\n")
    with pytest.raises(ValueError, match=r"line 3: a\.jpg is there twice"):
        groups.parse("file,age\na.png,1\na.jpg,2\n")


def test_severity_divides_the_faces_into_equal_parts_by_each_number() -> None:
    drawn = {f"f{i}": {"noise": float(i), "scale": 2.0} for i in range(9)}
    columns = groups.severity(drawn)
    assert list(columns) == ["noise"]  # one scale for all faces divides nothing
    assert columns["noise"]["f0"] == "1: 0 to 2"
    assert columns["noise"]["f8"] == "3: 6 to 8"


def test_faces_that_got_worse_are_listed_the_worst_first() -> None:
    result = scored({"a": 19.0, "b": 25.0, "c": 12.0})
    worse = groups.worse(result, "psnr", "higher")
    assert [(face["face_id"], face["gain"]) for face in worse] == [("c", -8.0), ("a", -1.0)]
