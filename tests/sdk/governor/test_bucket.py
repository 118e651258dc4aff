"""The bucket: what flows in, what is spent, and when the choice changes."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.governor import Bucket, BucketState, advance, full

TWO = Bucket(budget_ms=100.0, window_ms=1000.0, choices=2)


def test_it_flows_in_and_out() -> None:
    state = advance(TWO, full(TWO, 0.0), 0.0, spent_ms=40.0)
    assert state == BucketState(60.0, 0.0, 0)
    assert advance(TWO, state, 200.0).level_ms == pytest.approx(80.0)
    assert advance(TWO, state, 5_000.0).level_ms == 100.0, "it holds one budget"
    assert advance(TWO, state, -50.0) == state, "a clock that goes back adds nothing"
    assert advance(TWO, state, 0.0, spent_ms=1e9).level_ms == -100.0, "debt is forgotten"


def test_the_choice_has_two_levels() -> None:
    state = full(TWO, 0.0)
    choices = []
    for now_ms, spent_ms in ((0, 50), (0, 1), (200, 0), (259, 0), (260, 0), (260, 20), (260, 6)):
        state = advance(TWO, state, now_ms, spent_ms)
        choices.append((round(state.level_ms), state.choice))
    assert choices == [(50, 0), (49, 1), (69, 1), (75, 1), (75, 0), (55, 0), (49, 1)]


def test_three_choices_and_a_jump_over_one() -> None:
    three = Bucket(budget_ms=90.0, window_ms=900.0, choices=3, hysteresis=0.1)
    state = full(three, 0.0)
    state = advance(three, state, 0.0, spent_ms=31.0)
    assert state.choice == 1
    assert advance(three, full(three, 0.0), 0.0, spent_ms=61.0).choice == 2
    assert advance(three, state, 0.0, spent_ms=30.0).choice == 2
    low = BucketState(20.0, 0.0, 2)
    assert [advance(three, low, now_ms).choice for now_ms in (180, 190, 480, 490)] == [2, 1, 1, 0]


@given(
    data=st.data(),
    budget_ms=st.floats(1, 1e4),
    window_ms=st.floats(1, 1e5),
    choices=st.integers(1, 4),
)
def test_what_always_holds(
    data: st.DataObject, budget_ms: float, window_ms: float, choices: int
) -> None:
    hysteresis = data.draw(st.floats(0, 1 / choices))
    bucket = Bucket(budget_ms, window_ms, choices, hysteresis)
    state = full(bucket, 0.0)
    for _ in range(30):
        passed_ms = data.draw(st.floats(0, 2 * window_ms))
        spent_ms = data.draw(st.floats(0, 2 * budget_ms))
        after = advance(bucket, state, state.at_ms + passed_ms, spent_ms)
        assert -budget_ms <= after.level_ms <= budget_ms
        assert 0 <= after.choice < choices
        # The same level always allows the same or, within the hysteresis, the neighbouring choice.
        lowest = next(
            choice
            for choice in range(choices)
            if choice == choices - 1
            or after.level_ms >= budget_ms * (choices - 1 - choice) / choices
        )
        assert after.choice >= lowest
        assert after.choice <= lowest + (hysteresis > 0)
        # Looking again changes nothing.
        assert advance(bucket, after, after.at_ms) == after
        state = after


@given(costs=st.tuples(st.floats(5, 50), st.floats(0.1, 4.0)), period_ms=st.floats(40, 60))
def test_over_a_long_time_the_budget_is_kept(costs: tuple[float, float], period_ms: float) -> None:
    """Frames every period; the cheap choice alone needs less than flows in."""
    state = full(TWO, 0.0)
    spent, chosen, windows = 0.0, set(), 60
    for number in range(int(windows * TWO.window_ms / period_ms)):
        now_ms = number * period_ms
        state = advance(TWO, state, now_ms)
        cost = costs[state.choice]
        chosen.add(state.choice)
        spent += cost
        state = advance(TWO, state, now_ms, cost)
        assert state.level_ms > -cost
    assert spent <= (windows + 1) * TWO.budget_ms + costs[0]
    # Where the costly choice alone overspends, what is there is made use of.
    if costs[0] / period_ms > 1.2 * TWO.budget_ms / TWO.window_ms:
        assert chosen == {0, 1}
        assert spent >= 0.9 * windows * TWO.budget_ms - costs[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget_ms": 0.0}, "budget_ms is 0.0, expected a time above 0"),
        ({"window_ms": -1.0}, "window_ms is -1.0"),
        ({"window_ms": math.inf}, "window_ms is inf"),
        ({"choices": 0}, "choices is 0"),
        ({"hysteresis": 0.6}, "hysteresis is 0.6, expected 0 to 0.5"),
        ({"hysteresis": math.nan}, "hysteresis is nan"),
    ],
)
def test_buckets_that_make_no_sense(changes: dict[str, float], message: str) -> None:
    values = {"budget_ms": 1.0, "window_ms": 1.0, "choices": 2, **changes}
    with pytest.raises(ValueError, match=message):
        Bucket(**values)  # type: ignore[arg-type]
