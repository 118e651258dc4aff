"""The exit rule for a caller in a hurry: same answers, with all that is known done beforehand."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple, final

from offramp.policy._rule import answers, probabilities

if TYPE_CHECKING:
    from collections.abc import Callable

    from offramp.bundle import Policy
    from offramp.policy._rule import Logits

__all__ = ["Decider", "make_decider"]

# Far above what any two ways to compute a signal differ by, far below what a threshold can mean.
_CLOSE = 1e-9


@final
class Decider(NamedTuple):
    """Whether one exit answers, told by the lead of its largest logit over the second, mostly.

    Attributes:
        never_below: A lead below which it does not answer.
        always_above: A lead above which it does.
        decide: Tells from the logits, and is always that of ``answers``.
    """

    never_below: float
    always_above: float
    decide: Callable[[Logits], bool]


def make_decider(policy: Policy, exit: int, classes: int) -> Decider | None:
    """How to ask one exit whether it answers.

    Most images are nowhere near the threshold, which the lead can tell, or else a few plain floats;
    where they are near, the arrays decide.

    Args:
        policy: The policy.
        exit: The exit, counted from 0.
        classes: Number of classes.

    Returns:
        What to ask; ``None`` for an exit that never answers.
    """
    last = exit == len(policy.enabled) - 1
    if not last and not policy.enabled[exit]:
        return None
    temperature, threshold = policy.temperatures[exit], policy.thresholds[exit]

    def slow(logits: Logits) -> bool:
        return answers(policy, exit, probabilities(logits, temperature))

    def quick(logits: Logits) -> bool:
        if not isinstance(logits, list):
            return slow(logits)
        largest = max(logits)
        total = sum([math.exp((value - largest) / temperature) for value in logits])
        distance = 1.0 / total - threshold
        return distance > 0 if abs(distance) > _CLOSE else slow(logits)

    if last or policy.signal != "max_probability":
        return Decider(-math.inf, math.inf, slow)
    return Decider(*_gap_bounds(threshold, temperature, classes), quick)


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
