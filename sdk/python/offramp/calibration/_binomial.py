"""Exact statements about a rate, from how often it happened.

Clopper and Pearson 1934 for rates, and for quantiles the same thing read as order statistics. The
binomial distribution is summed from logarithms of factorials, so numpy is all it takes.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import numpy as np

from offramp.calibration._inputs import check_fraction

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = [
    "binomial_cdf",
    "certifies_rate",
    "fewest_samples",
    "most_events",
    "order_statistic",
    "smallest_enough",
    "smallest_rate",
]

# Of a rate, relative to it.
_PRECISION = 1e-10


def binomial_cdf(events: int, samples: int, rate: float) -> float:
    """The probability of at most ``events`` among ``samples`` that each happen with ``rate``."""
    if events < 0:
        return 0.0
    if events >= samples or rate <= 0.0:
        return 1.0
    if rate >= 1.0:
        return 0.0
    logs = _log_factorials(1 << samples.bit_length())
    counts = np.arange(events + 1)
    terms = (
        logs[samples]
        - logs[counts]
        - logs[samples - counts]
        + counts * math.log(rate)
        + (samples - counts) * math.log1p(-rate)
    )
    largest = float(terms.max())
    return min(1.0, math.exp(largest) * float(np.exp(terms - largest).sum()))


def certifies_rate(events: int, samples: int, limit: float, confidence: float) -> bool:
    """Whether the samples show that the rate is at most ``limit``: the exact binomial test.

    As with ``certifies``, what they show themselves must be within the limit too.
    """
    if samples == 0 or events > limit * samples:
        return False
    return binomial_cdf(events, samples, limit) <= 1.0 - confidence


def smallest_rate(events: int, samples: int, confidence: float) -> float:
    """The smallest rate that the samples certify: the one-sided Clopper-Pearson limit.

    Returns:
        A rate between 0 and 1; 1 if all, or none, were seen.
    """
    if events >= samples:
        return 1.0
    risk = 1.0 - confidence
    refused, certified = events / samples, 1.0
    rate = min(0.999, (events + 1.0 + 2.0 * math.sqrt(events + 1.0)) / samples)
    while certified - refused > _PRECISION * certified:
        if not refused < rate < certified:
            rate = (refused + certified) / 2.0
        excess = binomial_cdf(events, samples, rate) - risk
        if excess <= 0.0:
            certified = rate
        else:
            refused = rate
        # Newton's step; the slope is minus the density of the beta distribution. A little beyond,
        # so that the other side of the edge is seen soon and the interval closes.
        slope = _slope(events, samples, rate)
        step = excess / slope if slope > 0.0 else math.inf
        rate += step + math.copysign(_PRECISION * rate / 4.0, step)
    return certified


def _slope(events: int, samples: int, rate: float) -> float:
    logs = _log_factorials(1 << samples.bit_length())
    return math.exp(
        logs[samples]
        - logs[events]
        - logs[samples - events - 1]
        + events * math.log(rate)
        + (samples - events - 1) * math.log1p(-rate)
    )


def most_events(samples: int, limit: float, confidence: float) -> int:
    """How many events may be seen with the limit still certified; -1 if not even none."""
    below, above = -1, math.ceil(limit * samples) + 1
    while above - below > 1:
        middle = (below + above) // 2
        if certifies_rate(middle, samples, limit, confidence):
            below = middle
        else:
            above = middle
    return below


def fewest_samples(limit: float, confidence: float, events: int = 0) -> int:
    """How many samples certify the limit although so many events are seen among them.

    Args:
        limit: Above 0 and below 1.
        confidence: Above 0 and below 1.
        events: How many are seen.

    Raises:
        CalibrationError: An argument is out of range.
    """
    check_fraction("limit", limit)
    check_fraction("confidence", confidence)
    return smallest_enough(lambda samples: certifies_rate(events, samples, limit, confidence))


def smallest_enough(enough: Callable[[int], bool]) -> int:
    """The smallest positive number that is enough, where every larger one is too."""
    refused, found = 0, 1
    while not enough(found):
        refused, found = found, found * 2
    while found - refused > 1:
        middle = (refused + found) // 2
        if enough(middle):
            found = middle
        else:
            refused = middle
    return found


def order_statistic(samples: int, quantile: float, confidence: float) -> int | None:
    """Which of the sorted samples is an upper confidence limit of a quantile.

    The k-th smallest is one if at least k of the samples fall below the quantile with probability
    at most ``1 - confidence`` (David and Nagaraja, Order Statistics, section 7.1).

    Returns:
        Its place, counted from 0; ``None`` if not even the largest will do.
    """
    exceeding = most_events(samples, 1.0 - quantile, confidence)
    return None if exceeding < 0 else samples - 1 - exceeding


@functools.lru_cache(maxsize=4)
def _log_factorials(largest: int) -> NDArray[np.float64]:
    result = np.zeros(largest + 1)
    np.cumsum(np.log(np.arange(1, largest + 1)), out=result[1:])
    return result
