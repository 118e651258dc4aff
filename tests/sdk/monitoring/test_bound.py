"""The binomial limit is exact, for few samples and for ten million."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offramp.monitoring import rate_upper_bound


def _at_most(events: int, samples: int, rate: Fraction) -> Fraction:
    terms = (
        math.comb(samples, k) * rate**k * (1 - rate) ** (samples - k) for k in range(events + 1)
    )
    return sum(terms, Fraction(0))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 80), st.data(), st.sampled_from((0.9, 0.95, 0.99)))
def test_it_is_where_the_binomial_sum_meets_the_confidence(
    samples: int, data: st.DataObject, confidence: float
) -> None:
    events = data.draw(st.integers(0, samples - 1))
    bound = Fraction(rate_upper_bound(events, samples, confidence))
    step = Fraction(1, 10**9)
    assert _at_most(events, samples, bound + step) < 1 - Fraction(confidence)
    assert _at_most(events, samples, bound - step) > 1 - Fraction(confidence)


@pytest.mark.parametrize(
    ("events", "samples", "rate"),
    [
        # So many samples it takes to show a rate at 95 %, and one fewer does not.
        *((0, 149, 0.02), (1, 236, 0.02), (5, 523, 0.02), (20, 1449, 0.02)),
        *((0, 299, 0.01), (2, 628, 0.01), (10, 1693, 0.01)),
        *((0, 598, 0.005), (10, 3389, 0.005), (20, 5808, 0.005)),
    ],
)
def test_known_sample_sizes(events: int, samples: int, rate: float) -> None:
    assert rate_upper_bound(events, samples) <= rate < rate_upper_bound(events, samples - 1)


def test_ten_million_samples() -> None:
    """There the normal approximation is good to the digits asked for."""
    events, samples = 100_000, 10_000_000
    rate = events / samples
    normal = rate + 1.6448536 * math.sqrt(rate * (1 - rate) / samples)
    assert rate_upper_bound(events, samples) == pytest.approx(normal, rel=2e-5)


def test_edges() -> None:
    assert rate_upper_bound(0, 0) == 1.0
    assert rate_upper_bound(7, 7) == 1.0
    assert rate_upper_bound(0, 1, 0.9) == pytest.approx(0.9)
    for wrong in ((-1, 5, 0.9), (6, 5, 0.9), (1, 5, 1.0), (1, 5, 0.0)):
        with pytest.raises(ValueError, match="expected 0 <= events <= samples"):
            rate_upper_bound(*wrong)
