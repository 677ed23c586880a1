"""Which faces are kept with their pictures: those that got worse, the worst first."""

import numpy as np
import pytest

from components.reporting.comparison import Compared, Pair
from components.reporting.worst import Worst

PICTURE = np.zeros((8, 8, 3), np.uint8)
GAINS = {"a": -1.0, "b": 2.0, "c": -3.0, "d": float("nan"), "e": -2.0, "f": 0.0, "g": -2.0}


def compared(face: str, metric: str, gain: float) -> Compared:
    scores = {metric: {"degraded": 20.0, "restored": 20.0 + gain}}
    return Compared(Pair(face, 0, PICTURE, PICTURE), None, PICTURE, None, scores)


def names(worst: Worst) -> list[str]:
    return [one.pair.face_id for one in worst.faces()]


@pytest.mark.parametrize(("number", "expected"), [(0, ""), (2, "ce"), (3, "ceg"), (9, "cega")])
def test_the_faces_that_lost_the_most_are_kept_the_worst_first(number: int, expected: str) -> None:
    worst = Worst(["fid_vqfr", "psnr", "ssim"], number)  # a set's distance is of no single face
    worst.add([compared(face, "psnr", gain) for face, gain in GAINS.items()])
    assert names(worst) == list(expected)


def test_where_lower_is_better_a_higher_score_is_a_loss() -> None:
    worst = Worst(["lpips"], 2)
    worst.add([compared("a", "lpips", 1.0), compared("b", "lpips", -4.0)])
    assert names(worst) == ["a"]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_the_worst_of_parts_are_the_worst_of_all(number: int) -> None:
    faces = [compared(face, "psnr", gain) for face, gain in GAINS.items()]
    together = Worst(["psnr"], number)
    for part in (faces[:3], faces[3:5], faces[5:]):
        one = Worst(["psnr"], number)
        one.add(part)
        together.add(one.faces())
    whole = Worst(["psnr"], number)
    whole.add(faces)
    assert names(together) == names(whole)
