import random

import numpy as np
import pytest

from components import keyed_random

KEY = (42, "0003.png", 1, "noise")
# Written down once: trained models and cached tables depend on them.
PINNED_INTEGERS = [891, 825, 449, 679, 671, 106]
PINNED_NORMALS = [1.0098098516464233, 1.0400042533874512, -0.6695733666419983, -0.39721399545669556]


def test_the_numbers_of_a_key_never_change() -> None:
    assert keyed_random.generator(*KEY).integers(0, 1000, 6).tolist() == PINNED_INTEGERS
    np.testing.assert_allclose(keyed_random.normal(*KEY, (4,)), PINNED_NORMALS, rtol=1e-6)


@pytest.mark.parametrize(
    "other",
    [
        (43, "0003.png", 1, "noise"),
        (42, "0004.png", 1, "noise"),
        (42, "0003.png", 2, "noise"),
        (42, "0003.png", 1, "degradation"),
        (-42, "0003.png", 1, "noise"),
    ],
)
def test_a_key_that_differs_anywhere_gives_an_unrelated_stream(
    other: tuple[int, str, int, str],
) -> None:
    ours, theirs = (keyed_random.normal(*key, (20_000,)) for key in (KEY, other))
    assert abs(np.corrcoef(ours, theirs)[0, 1]) < 0.03  # 4 standard errors


def test_the_limits_between_the_parts_of_a_key_count() -> None:
    shifted = [(1, "a", 12, "p"), (1, "a1", 2, "p"), (1, 'a", 1', 2, "p"), (11, "a", 2, "p")]
    first = {int(keyed_random.generator(*key).integers(1 << 62)) for key in shifted}
    assert len(first) == len(shifted)


def test_the_order_of_draws_changes_nothing() -> None:
    keys = [(7, f"face-{i}", v, "noise") for i in range(20) for v in range(3)]
    in_order = {key: keyed_random.normal(*key, (3, 2)).tobytes() for key in keys}
    random.Random(0).shuffle(keys)
    assert {key: keyed_random.normal(*key, (3, 2)).tobytes() for key in keys} == in_order


def test_normal_is_standard_normal_float32() -> None:
    drawn = keyed_random.normal(1, "Jürgen Groß.jpg", 0, "noise", (64, 64, 3))
    assert drawn.dtype == np.float32
    assert drawn.shape == (64, 64, 3)
    assert abs(float(drawn.mean())) < 0.04
    assert abs(float(drawn.std()) - 1) < 0.03


def test_numpy_integers_are_keys_like_pythons() -> None:
    ours = keyed_random.normal(42, "a", 1, "noise", (5,))
    theirs = keyed_random.normal(int(np.int64(42)), "a", np.int32(1), "noise", (5,))  # type: ignore[arg-type]
    np.testing.assert_array_equal(ours, theirs)
