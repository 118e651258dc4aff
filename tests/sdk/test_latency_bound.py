"""The confidence bound of a quantile: its tabulated ranks, and that it holds."""

from __future__ import annotations

import numpy as np
import pytest

from offramp import Latency


@pytest.mark.parametrize(
    ("runs", "rank_from_top"), [(1, 0), (298, 0), (299, 0), (472, 0), (473, 1), (628, 2), (1049, 5)]
)
def test_ranks(runs: int, rank_from_top: int) -> None:
    latency = Latency(tuple(float(number) for number in range(runs)))
    assert latency.bound_ms(0.99) == runs - 1 - rank_from_top


def test_the_bound_lies_above_the_quantile_as_often_as_promised() -> None:
    generator = np.random.default_rng(0)
    samples = generator.exponential(size=(2000, 600))
    true = -np.log(0.01)
    held = np.mean([Latency(tuple(row)).bound_ms(0.99, 0.9) >= true for row in samples])
    # Discrete ranks make it hold a little more often: here P(Binomial(600, .99) < 598) = 0.938.
    assert 0.90 <= held <= 0.96


@pytest.mark.parametrize(("quantile", "confidence"), [(0.0, 0.9), (1.0, 0.9), (0.9, 1.0)])
def test_what_lies_outside(quantile: float, confidence: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        Latency((1.0,)).bound_ms(quantile, confidence)
