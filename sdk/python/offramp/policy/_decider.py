"""The exit rule for a caller in a hurry: same answers, with all that is known done beforehand."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from offramp.policy._rule import answers, probabilities

if TYPE_CHECKING:
    from collections.abc import Callable

    from offramp.bundle import Policy
    from offramp.policy._rule import Logits

__all__ = ["make_decider"]

# Far above what any two ways to compute a signal differ by, far below what a threshold can mean.
_CLOSE = 1e-9


def make_decider(policy: Policy, exit: int, classes: int) -> Callable[[Logits], bool] | None:
    """How to ask one exit whether it answers.

    Most images are nowhere near the threshold, which a few plain floats can tell; where they are
    near, the arrays decide, so that the result is always that of ``answers``.

    Args:
        policy: The policy.
        exit: The exit, counted from 0.
        classes: Number of classes.

    Returns:
        A function of the exit's logits, quick if they are a list; ``None`` for an exit that never
        answers.
    """
    last = exit == len(policy.enabled) - 1
    if not last and not policy.enabled[exit]:
        return None
    temperature, threshold = policy.temperatures[exit], policy.thresholds[exit]

    def slow(logits: Logits) -> bool:
        return answers(policy, exit, probabilities(logits, temperature))

    if last or policy.signal != "max_probability":
        return slow
    never_below, always_above = _gap_bounds(threshold, temperature, classes)
    lowest = -math.inf

    def quick(logits: Logits) -> bool:
        if type(logits) is not list:
            return slow(logits)
        # Sorting, or two searches, would first have to bring their own code into the cache.
        largest = second = lowest
        for value in logits:
            if value > second:
                if value > largest:
                    second, largest = largest, value
                else:
                    second = value
        gap = largest - second
        if gap < never_below:
            return False
        if gap > always_above:
            return True
        total = sum([math.exp((value - largest) / temperature) for value in logits])
        distance = 1.0 / total - threshold
        return distance > 0 if abs(distance) > _CLOSE else slow(logits)

    return quick


def _gap_bounds(threshold: float, temperature: float, classes: int) -> tuple[float, float]:
    """What the lead of the largest logit alone tells of the largest probability.

    With a lead g over the second it lies between ``1 / (1 + (classes - 1) exp(-g / T))`` and
    ``1 / (1 + exp(-g / T))``.

    Returns:
        A lead below which it cannot reach the threshold, and one above which it must.
    """
    low, high = threshold - _CLOSE, threshold + _CLOSE
    never_below = temperature * math.log(low / (1.0 - low)) if low > 0.0 else -math.inf
    always_above = (
        temperature * math.log((classes - 1) * high / (1.0 - high)) if high < 1.0 else math.inf
    )
    return never_below, always_above
