"""An exact upper bound of a rate, in constant memory."""

from __future__ import annotations

import math

__all__ = ["rate_upper_bound"]

_BISECTIONS = 60
_MOST_TERMS = 100_000
_TINY = 1e-300


def rate_upper_bound(events: int, samples: int, confidence: float = 0.95) -> float:
    """The one-sided upper confidence limit of a rate (Clopper and Pearson 1934).

    The largest rate under which at most so many events would still be seen with a probability of
    ``1 - confidence``. It holds for one look at a time that was fixed beforehand.

    Args:
        events: How often it happened.
        samples: How often it could have.
        confidence: Above 0 and below 1.

    Returns:
        A rate from 0 to 1; 1 if there are no samples.
    """
    if not 0 <= events <= samples or not 0.0 < confidence < 1.0:
        raise ValueError(
            f"{events} events among {samples} at a confidence of {confidence}, "
            "expected 0 <= events <= samples and a confidence between 0 and 1"
        )
    if events == samples:
        return 1.0
    low, high = events / samples, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2.0
        if _at_most(events, samples, middle) <= 1.0 - confidence:
            high = middle
        else:
            low = middle
    return high


def _at_most(events: int, samples: int, rate: float) -> float:
    """The probability of at most ``events``, for a rate that is not below ``events / samples``.

    It is the incomplete beta function ``I(1 - rate; samples - events, events + 1)``, here as
    Lentz's continued fraction (DLMF 8.17.22), which converges quickly on this side of the mean.
    """
    if rate >= 1.0:
        return 0.0
    a, b, x = float(samples - events), events + 1.0, 1.0 - rate
    front = math.exp(
        math.lgamma(a + b)
        - math.lgamma(a)
        - math.lgamma(b)
        + a * math.log1p(-rate)
        + b * math.log(rate)
    )
    c, d = 1.0, 1.0 / _off_zero(1.0 - (a + b) * x / (a + 1.0))
    fraction = d
    for m in range(1, _MOST_TERMS):
        for step in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1.0 / _off_zero(1.0 + step * d)
            c = _off_zero(1.0 + step / c)
            fraction *= c * d
        if abs(c * d - 1.0) < 1e-15:
            return min(1.0, front * fraction / a)
    raise ArithmeticError(f"no limit found for {events} events among {samples}")


def _off_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
