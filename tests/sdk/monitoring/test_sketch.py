"""Quantiles within 1 %, in buckets that add up."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.monitoring import LatencySketch

LATENCIES = st.lists(st.floats(1e-4, 9e5), min_size=1, max_size=200)


def _sketch(values: list[float]) -> LatencySketch:
    sketch = LatencySketch()
    for value in values:
        sketch.add(value)
    return sketch


@given(LATENCIES, st.floats(0.001, 1.0))
def test_quantiles_are_within_one_percent(values: list[float], quantile: float) -> None:
    exact = sorted(values)[math.ceil(quantile * len(values)) - 1]
    assert _sketch(values).quantile_ms(quantile) == pytest.approx(exact, rel=0.01 + 1e-9)


@given(LATENCIES, LATENCIES)
def test_two_sketches_add_up(first: list[float], second: list[float]) -> None:
    both, parts = _sketch(first + second), (_sketch(first), _sketch(second))
    added = LatencySketch.of(
        [bucket for part in parts for bucket in part.buckets()],
        sum(part.sum_ms for part in parts),
        max(part.largest_ms for part in parts),
    )
    assert added.buckets() == both.buckets()
    assert added.count == both.count
    for quantile in (0.1, 0.5, 0.99, 1.0):
        assert added.quantile_ms(quantile) == both.quantile_ms(quantile)


def test_the_largest_is_exact_and_the_range_is_closed() -> None:
    sketch = _sketch([0.0, 1e-9, 5.0, 1e12])
    assert sketch.largest_ms == 1e12
    assert sketch.count == 4
    assert sketch.quantile_ms(0.25) <= 1e-4
    assert sketch.quantile_ms(0.75) == pytest.approx(5.0, rel=0.01)
    assert len(sketch.buckets()) == 3


def test_memory_does_not_grow() -> None:
    rng = np.random.default_rng(0)
    sketch = _sketch(rng.lognormal(0, 3, 50_000).tolist())
    assert len(sketch.buckets()) < 1200


def test_what_cannot_be_told() -> None:
    with pytest.raises(ValueError, match="no latency has been counted"):
        LatencySketch().quantile_ms(0.5)
    for quantile in (0.0, 1.1, math.nan):
        with pytest.raises(ValueError, match="expected above 0 and up to 1"):
            _sketch([1.0]).quantile_ms(quantile)
    with pytest.raises(ValueError, match="bucket 5000, expected 0 to"):
        LatencySketch.of([(5000, 1)], 1.0, 1.0)
