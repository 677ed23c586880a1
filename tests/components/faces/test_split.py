import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.faces import split
from components.faces.split import SplitError


def test_val_counts_as_test_and_other_columns_do_not_matter() -> None:
    text = "kind,file,split\nreal,a b.jpg,train\nreal,ü.png,val\ndrawn,c.png,test\n"
    assert split.parse(text) == {"a b.jpg": "train", "ü.png": "test", "c.png": "test"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("file,set\na,train\n", "has no column split"),
        ("file,split\na.jpg,validation\n", "line 2: split 'validation' of a.jpg"),
        ("file,split\na.jpg,train\na.jpg,test\n", "line 3: a.jpg is in two splits"),
        ("file,split\na.jpg\n", "line 2"),
    ],
)
def test_a_bad_row_is_named(text: str, reason: str) -> None:
    with pytest.raises(SplitError, match=reason):
        split.parse(text)


def test_the_hash_chooses_about_the_requested_share() -> None:
    names = [f"ffhq/{number:05d}.png" for number in range(4000)]
    tests = sum(split.by_name(name, 25) == "test" for name in names)
    assert 900 < tests < 1100
    assert {split.by_name(name, 0) for name in names} == {"train"}
    assert {split.by_name(name, 100) for name in names} == {"test"}


@given(st.text(st.characters(exclude_categories=["Cs"])), st.floats(0, 100), st.floats(0, 100))
def test_more_percent_only_adds_to_the_test_split(name: str, percent: float, other: float) -> None:
    less, more = sorted([percent, other])
    if split.by_name(name, less) == "test":
        assert split.by_name(name, more) == "test"


@given(st.integers(0, 300), st.integers(0, 12))
def test_faces_are_spread_evenly(total: int, wanted: int) -> None:
    places = sorted(split.spread(total, wanted))
    assert len(places) == min(wanted, total)
    assert all(0 <= place < total for place in places)
    if 1 < wanted < total:
        assert np.ptp(np.diff(places)) <= 1
