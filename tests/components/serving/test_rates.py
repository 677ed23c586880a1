"""A rate per key: any sixty seconds, not those of a clock."""

from hypothesis import given
from hypothesis import strategies as st

from components.serving.rates import Rates

LIMIT = 3


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 40)), max_size=40))
def test_no_sixty_seconds_hold_more_than_the_limit_and_less_is_never_refused(
    asked: list[tuple[str, float]],
) -> None:
    now = 0.0
    rates = Rates(LIMIT, lambda: now)
    allowed: dict[str, list[float]] = {"a": [], "b": []}
    for owner, pause in asked:
        now += pause
        recent = [at for at in allowed[owner] if at > now - 60]
        taken = rates.take(owner)
        assert taken.is_allowed == (len(recent) < LIMIT)
        if taken.is_allowed:
            allowed[owner].append(now)
            recent.append(now)
        assert (taken.limit, taken.remaining) == (LIMIT, LIMIT - len(recent))
        assert recent[0] + 60 - now <= taken.reset_s <= recent[0] + 61 - now


def test_a_client_that_waits_as_long_as_it_is_told_is_allowed() -> None:
    now = 100.0
    rates = Rates(1, lambda: now)
    assert rates.take("a").is_allowed
    now += 12.3
    refused = rates.take("a")
    assert (refused.is_allowed, refused.reset_s) == (False, 48)
    assert rates.take("b").is_allowed
    now += refused.reset_s
    assert rates.take("a").is_allowed
