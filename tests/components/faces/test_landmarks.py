import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from components.faces import landmarks
from components.faces.landmarks import Landmarks, LandmarksError

HEADER = ",".join(landmarks.COLUMNS)

_NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30)
_POINTS = hnp.arrays(np.float64, (5, 2), elements=st.floats(-1e4, 1e4))


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(_NAMES, st.lists(_POINTS, min_size=1, max_size=3), max_size=4))
def test_what_is_written_is_read_again(faces: dict[str, list[Landmarks]]) -> None:
    read = landmarks.parse(landmarks.write(faces))
    assert read.keys() == faces.keys()
    for name, given_points in faces.items():
        assert np.abs(np.array(read[name]) - np.array(given_points)).max() <= 0.0005 + 1e-9


def test_faces_come_in_the_order_of_their_numbers_and_other_columns_do_not_matter() -> None:
    rows = [
        f"{HEADER},note",
        "a b.jpg,2," + ",".join(["20"] * 10) + ",second",
        "a b.jpg,1," + ",".join(["10"] * 10) + ",first",
    ]
    read = landmarks.parse("\n".join(rows))
    assert [float(points[0, 0]) for points in read["a b.jpg"]] == [10, 20]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("x.jpg,1,1,2,3,4,5,6,7,8,9,ten", "line 2: could not convert"),
        ("x.jpg,one,1,2,3,4,5,6,7,8,9,10", "line 2: invalid literal"),
        ("x.jpg,1,1,2,3", "line 2"),
        ("x.jpg,1,nan,2,3,4,5,6,7,8,9,10", "not finite"),
        ("x.jpg,1,1,2,3,4,5,6,7,8,9,10\nx.jpg,1,1,2,3,4,5,6,7,8,9,10", "line 3: face 1 of x.jpg"),
    ],
)
def test_a_bad_row_is_named(row: str, reason: str) -> None:
    with pytest.raises(LandmarksError, match=reason):
        landmarks.parse(f"{HEADER}\n{row}\n")


def test_missing_columns_are_named() -> None:
    with pytest.raises(LandmarksError, match="has no column face, left_eye_x"):
        landmarks.parse("file,x,y\n")
