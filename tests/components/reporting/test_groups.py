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
    rows = groups.add(scored(values), groups.parse(csv), samples=200, seed=1)["groups"]
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


def test_equal_numbers_are_in_one_part() -> None:
    values = [60, 70, 70, 70, 70, 80, 80, 80, 90]
    columns = groups.severity({f"f{i}": {"jpeg": value} for i, value in enumerate(values)})
    assert sorted(set(columns["jpeg"].values())) == ["1: 60 to 60", "2: 70 to 70", "3: 80 to 90"]


def test_severity_of_a_row_is_that_of_its_blur_scale_noise_and_jpeg() -> None:
    row = {"sigma_x": 1.0, "sigma_y": 4.0, "scale": 3.0, "noise_sigma": 5.0, "jpeg_quality": 70}
    assert groups.severity_of(row) == {"blur": 2.0, "scale": 3.0, "noise": 5.0, "jpeg": 70}


def degraded_twice() -> tuple[dict[str, Any], dict[str, groups.Column]]:
    """Give 20 faces with two degradations each: the noisy one is 3 dB lower, and gains less."""
    random = np.random.default_rng(2)
    rows, noise = [], {}
    for i in range(20):
        base = 25 + random.normal()
        for variant, loss in enumerate((0, 3) if i % 2 else (3, 0)):
            scores = {"degraded": base - loss, "restored": base - loss + (0.5 if loss else 1.0)}
            rows.append(FaceScores(f"f{i}", variant, {"psnr": scores}))
            name = f"f{i}" if variant == 0 else f"f{i}.1"
            noise[name] = "strong" if loss else "weak"
    columns = {"noise": noise, "sex": {f"f{i}": "fm"[i % 2] for i in range(20)}}
    return comparison.result({}, {}, rows, {}, samples=50, seed=1), columns


def test_each_degradation_of_a_face_counts_in_the_part_of_its_own_severity() -> None:
    result, columns = degraded_twice()
    rows = groups.add(result, columns, samples=200, seed=1)["groups"]
    found = {(row["column"], row["group"]): row for row in rows}
    strong, weak = found["noise", "strong"], found["noise", "weak"]
    assert (strong["n"], weak["n"]) == (20, 20)
    assert strong["mean"] == pytest.approx(weak["mean"] - 3.5)
    assert strong["gain"]["mean"] == pytest.approx(0.5)
    assert weak["gain"]["low"] == pytest.approx(1.0)
    assert strong["degraded"]["mean"] == pytest.approx(strong["mean"] - 0.5)
    assert strong["differs"]
    assert not found["sex", "f"]["differs"]
    # A group of faces has as many as there are faces, not as many as degradations.
    assert found["sex", "f"]["n"] == 10
    by_hand = [face["scores"]["psnr"]["restored"] for face in result["faces"][::4]]
    by_hand += [face["scores"]["psnr"]["restored"] for face in result["faces"][1::4]]
    assert found["sex", "f"]["mean"] == pytest.approx(np.mean(by_hand))


def test_a_metrics_file_says_the_groups_of_each_face() -> None:
    faces = groups.add(*degraded_twice(), samples=20, seed=1)["faces"]
    assert faces[0]["groups"] == {"noise": "strong", "sex": "f"}
    assert faces[1]["groups"] == {"noise": "weak", "sex": "f"}


def test_faces_that_got_worse_are_listed_the_worst_first() -> None:
    result = scored({"a": 19.0, "b": 25.0, "c": 12.0})
    worse = groups.worse(result, "psnr", "higher")
    assert [(face["face_id"], face["gain"]) for face in worse] == [("c", -8.0), ("a", -1.0)]
