"""Recipes are checked when they are made, and their schedules are pure functions."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp_search.training import Recipe


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"learning_rate": float("nan")}, "learning_rate must be positive and finite"),
        ({"distill_alpha": 1.5}, "distill_alpha must lie between 0 and 1"),
        ({"pad_crop": -1}, "must not be negative"),
        ({"exit_weights": (1.0, -1.0)}, "exit_weights must not be negative"),
        ({"clip_norm": 0.0}, "clip_norm must be positive"),
    ],
)
def test_bad_values_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe(**{"epochs": 1, **fields})


@given(steps=st.integers(1, 500), warmup=st.floats(0, 0.9))
def test_no_schedule_leaves_its_range(steps: int, warmup: float) -> None:
    for schedule in ("cosine", "one_cycle", "constant"):
        recipe = Recipe(epochs=1, learning_rate=2.0, schedule=schedule, warmup_share=warmup)
        rates = [recipe.learning_rate_at(step, steps) for step in range(steps)]
        assert all(0 <= rate <= 2.0 for rate in rates)


def test_shapes_of_the_schedules() -> None:
    cosine = Recipe(epochs=1, learning_rate=1.0)
    assert cosine.learning_rate_at(0, 100) > 0.99
    assert cosine.learning_rate_at(50, 100) == pytest.approx(0.5, abs=0.02)
    assert cosine.learning_rate_at(99, 100) < 0.001
    cycle = Recipe(epochs=1, learning_rate=1.0, schedule="one_cycle")
    rates = [cycle.learning_rate_at(step, 99) for step in range(99)]
    assert rates.index(max(rates)) in (32, 33)
    assert rates[0] < 0.05
    assert rates[-1] < 0.001
    constant = Recipe(epochs=1, learning_rate=1.0, schedule="constant", warmup_share=0.5)
    assert [constant.learning_rate_at(step, 4) for step in range(4)] == [0.25, 0.75, 1.0, 1.0]
