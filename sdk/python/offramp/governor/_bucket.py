"""A token bucket of milliseconds, and the choice that its level makes: pure functions of time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

__all__ = ["Bucket", "BucketState", "advance", "full"]


@final
@dataclass(frozen=True, slots=True)
class Bucket:
    """What may be spent, and when to spend less.

    Attributes:
        budget_ms: What flows in during one window, in milliseconds; also what the bucket holds.
        window_ms: The length of a window, in milliseconds.
        choices: How many ways there are to spend, from the most to the least costly.
        hysteresis: How much fuller than at the switch to the next cheaper choice the bucket must
            be for the switch back, as a share of the budget.
    """

    budget_ms: float
    window_ms: float
    choices: int
    hysteresis: float = 0.25

    def __post_init__(self) -> None:
        for name, value in (("budget_ms", self.budget_ms), ("window_ms", self.window_ms)):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} is {value}, expected a time above 0")
        if self.choices < 1:
            raise ValueError(f"choices is {self.choices}, expected at least 1")
        if not 0.0 <= self.hysteresis <= 1.0 / self.choices:
            raise ValueError(
                f"hysteresis is {self.hysteresis}, expected 0 to {1.0 / self.choices:.3g}, "
                f"the distance of the switching levels of {self.choices} policies"
            )


@final
@dataclass(frozen=True, slots=True)
class BucketState:
    """A bucket at one moment.

    Attributes:
        level_ms: What may be spent; below 0 if more was spent than there was.
        at_ms: The moment, on any clock that does not go back, in milliseconds.
        choice: The choice in force, counted from 0, the most costly.
    """

    level_ms: float
    at_ms: float
    choice: int = 0


def full(bucket: Bucket, now_ms: float) -> BucketState:
    """A full bucket, with the most costly choice in force."""
    return BucketState(bucket.budget_ms, now_ms)


def advance(
    bucket: Bucket, state: BucketState, now_ms: float, spent_ms: float = 0.0
) -> BucketState:
    """Let time pass, spend, and choose anew.

    The levels at which the choice falls by one divide the bucket evenly: with two choices the
    cheaper one is taken below one half, with three below two thirds and one third. It rises again
    at that level plus the hysteresis. Debt is kept down to one whole budget: what lies further
    back than a window is forgiven, or a long overload would be paid for ever.

    Args:
        bucket: The bucket.
        state: Where it stood.
        now_ms: The moment, on the state's clock; an earlier one counts as no time.
        spent_ms: What was spent since.
    """
    passed_ms = max(0.0, now_ms - state.at_ms)
    level_ms = state.level_ms + bucket.budget_ms * (passed_ms / bucket.window_ms)
    level_ms = max(min(level_ms, bucket.budget_ms) - spent_ms, -bucket.budget_ms)
    choice = state.choice
    last = bucket.choices - 1
    while choice < last and level_ms < _falls_at(bucket, choice):
        choice += 1
    while choice > 0 and level_ms >= (
        _falls_at(bucket, choice - 1) + bucket.hysteresis * bucket.budget_ms
    ):
        choice -= 1
    return BucketState(level_ms, max(now_ms, state.at_ms), choice)


def _falls_at(bucket: Bucket, choice: int) -> float:
    return bucket.budget_ms * (bucket.choices - 1 - choice) / bucket.choices
