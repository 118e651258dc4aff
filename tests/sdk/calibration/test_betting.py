"""The test keeps its error rate at the limit, has power, and equals its definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from offramp.calibration import certifies, log_wealth, minimum_samples, smallest_limit

DROPS = arrays(np.int64, st.integers(1, 300), elements=st.sampled_from([-1, 0, 0, 0, 0, 1]))
LIMITS = st.floats(0.001, 0.5)


def rejected(drops: np.ndarray, limit: float, confidence: float) -> np.ndarray:
    """``certifies`` for many rows at once."""
    wealth = log_wealth(drops, limit, confidence).max(axis=-1)
    result: np.ndarray = (wealth >= -math.log(1 - confidence)) & (drops.mean(axis=-1) <= limit)
    return result


def draw(rng: np.random.Generator, rows: int, images: int, harm: float, gain: float) -> np.ndarray:
    uniform = rng.random((rows, images))
    return np.where(uniform < harm, 1, np.where(uniform < harm + gain, -1, 0)).astype(np.int8)


@given(DROPS, LIMITS, st.floats(0.6, 0.99))
def test_the_wealth_is_the_one_defined_step_by_step(
    drops: np.ndarray, limit: float, confidence: float
) -> None:
    total, mean_sum, deviation_sum = 0.0, 0.0, 0.0
    wealth = []
    for j, drop in enumerate(drops.tolist(), start=1):
        variance = (0.05 + deviation_sum) / j
        bet = min(
            math.sqrt(2 * math.log(1 / (1 - confidence)) / (len(drops) * variance)),
            0.75 / (1 - limit),
        )
        total += math.log(1 - bet * (drop - limit))
        wealth.append(total)
        mean_sum += drop
        deviation_sum += (drop - mean_sum / (j + 1)) ** 2
    np.testing.assert_allclose(log_wealth(drops, limit, confidence), wealth, atol=1e-9)


@pytest.mark.parametrize("limit", [0.01, 0.05])
@pytest.mark.parametrize("gain", [0.0, 0.01, 0.1, 0.4])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_a_drop_exactly_at_the_limit_is_rarely_certified(
    rng: np.random.Generator, limit: float, gain: float, confidence: float
) -> None:
    rows = 4_000
    drops = draw(rng, rows, 1_000, harm=limit + gain, gain=gain)
    false = int(rejected(drops, limit, confidence).sum())
    # Three standard deviations above the rate promised: reached by chance once in 700 such tests.
    allowed = 1 - confidence
    assert false <= rows * allowed + 3 * math.sqrt(rows * allowed * (1 - allowed))


def test_the_promise_would_be_broken_without_the_test(rng: np.random.Generator) -> None:
    """What the Monte-Carlo test can see: taking the observed drop at its word fails often."""
    drops = draw(rng, 2_000, 1_000, harm=0.01, gain=0.0)
    assert (drops.mean(axis=1) <= 0.01).mean() > 0.4


def test_a_harmless_exit_is_certified_almost_always(rng: np.random.Generator) -> None:
    drops = draw(rng, 500, 3_000, harm=0.003, gain=0.002)
    assert rejected(drops, 0.01, 0.95).mean() > 0.95


@given(DROPS, LIMITS, LIMITS)
def test_a_looser_limit_never_certifies_less(drops: np.ndarray, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert certifies(drops, low, 0.8) <= certifies(drops, high, 0.8)


@given(DROPS, LIMITS)
def test_the_smallest_limit_is_the_edge(drops: np.ndarray, limit: float) -> None:
    if not certifies(drops, limit, 0.8):
        return
    edge = smallest_limit(drops, limit, 0.8)
    assert edge <= limit
    assert certifies(drops, edge, 0.8)
    assert not certifies(drops, edge - 1e-9, 0.8)


def test_the_smallest_limit_is_negative_for_a_gain() -> None:
    assert smallest_limit(np.tile([-1, -1, -1, 0], 500), 0.01, 0.95) < -0.5


def test_no_images_certify_nothing() -> None:
    assert not certifies(np.zeros(0, dtype=np.int64), 0.5, 0.6)


@pytest.mark.parametrize(
    ("limit", "confidence", "images"),
    [(0.02, 0.95, 198), (0.01, 0.95, 398), (0.005, 0.95, 798), (0.01, 0.9, 306)],
)
def test_the_numbers_of_images_that_a_promise_takes(
    limit: float, confidence: float, images: int
) -> None:
    assert minimum_samples(limit, confidence) == images


@given(LIMITS, st.floats(0.5, 0.999))
def test_the_minimum_is_enough_and_one_less_is_not(limit: float, confidence: float) -> None:
    images = minimum_samples(limit, confidence)
    assert certifies(np.zeros(images, dtype=np.int64), limit, confidence)
    assert not certifies(np.zeros(images - 1, dtype=np.int64), limit, confidence)
    # No test of that confidence can do with fewer than the exact binomial one.
    assert images >= math.log(1 - confidence) / math.log(1 - limit) - 1
