"""Exact statements about rates, against sums made by hand and tables."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.calibration import (
    binomial_cdf,
    certifies_rate,
    fewest_samples,
    most_events,
    order_statistic,
    smallest_rate,
)
from offramp.errors import CalibrationError


@given(st.integers(0, 60), st.integers(1, 50), st.floats(0.001, 0.999))
def test_the_distribution_is_the_sum_of_its_terms(events: int, samples: int, rate: float) -> None:
    expected = sum(
        math.comb(samples, k) * rate**k * (1 - rate) ** (samples - k)
        for k in range(min(events, samples) + 1)
    )
    assert binomial_cdf(events, samples, rate) == pytest.approx(expected, rel=1e-9)


def test_its_ends() -> None:
    assert binomial_cdf(-1, 10, 0.5) == 0.0
    assert binomial_cdf(3, 10, 0.0) == 1.0
    assert binomial_cdf(3, 10, 1.0) == 0.0


@pytest.mark.parametrize(
    ("limit", "needed"),
    [
        (0.02, (149, 236, 313, 523, 845, 1449)),
        (0.01, (299, 473, 628, 1049, 1693, 2902)),
        (0.005, (598, 947, 1258, 2100, 3389, 5808)),
    ],
)
def test_how_many_samples_certify_a_rate(limit: float, needed: tuple[int, ...]) -> None:
    found = tuple(fewest_samples(limit, 0.95, events) for events in (0, 1, 2, 5, 10, 20))
    assert found == needed


@pytest.mark.parametrize(
    ("samples", "events"),
    [(500, (4, 1, -1)), (1_000, (12, 4, 1)), (5_000, (83, 38, 16)), (20_000, (367, 176, 83))],
)
def test_how_many_events_are_too_many(samples: int, events: tuple[int, ...]) -> None:
    assert tuple(most_events(samples, limit, 0.95) for limit in (0.02, 0.01, 0.005)) == events


@given(st.integers(1, 400), st.floats(0.5, 0.999), st.data())
def test_the_smallest_rate_is_the_edge(
    samples: int, confidence: float, data: st.DataObject
) -> None:
    events = data.draw(st.integers(0, samples - 1))
    edge = smallest_rate(events, samples, confidence)
    assert binomial_cdf(events, samples, edge) <= 1 - confidence
    assert binomial_cdf(events, samples, edge - 1e-9) > 1 - confidence


def test_all_events_bound_nothing() -> None:
    assert smallest_rate(5, 5, 0.9) == 1.0
    assert smallest_rate(0, 0, 0.9) == 1.0
    assert not certifies_rate(0, 0, 0.5, 0.5)


def test_what_they_show_themselves_must_be_within_the_limit() -> None:
    assert binomial_cdf(3, 10, 0.2) <= 1 - 0.05
    assert not certifies_rate(3, 10, 0.2, 0.05)


@pytest.mark.parametrize(
    ("samples", "place"), [(298, None), (299, 298), (472, 471), (473, 471), (628, 625)]
)
def test_which_run_bounds_the_99_percent_quantile(samples: int, place: int | None) -> None:
    assert order_statistic(samples, 0.99, 0.95) == place


def test_the_bound_of_a_quantile_is_kept(rng: np.random.Generator) -> None:
    draws, samples, quantile, confidence = 4_000, 200, 0.9, 0.9
    place = order_statistic(samples, quantile, confidence)
    assert place is not None
    bounds = np.sort(rng.random((draws, samples)), axis=1)[:, place]
    below = int((bounds < quantile).sum())
    allowed = 1 - confidence
    assert below <= draws * allowed + 3 * math.sqrt(draws * allowed * (1 - allowed))
    # Not by being useless: the next smaller one would not do.
    before = np.sort(rng.random((draws, samples)), axis=1)[:, place - 2]
    assert (before < quantile).mean() > allowed


@pytest.mark.parametrize("bad", [0.0, 1.0, -1.0])
def test_limits_are_fractions(bad: float) -> None:
    with pytest.raises(CalibrationError, match="above 0 and below 1"):
        fewest_samples(bad, 0.95)
