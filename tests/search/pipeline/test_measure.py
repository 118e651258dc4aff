"""Interleaved measurement counts every image once for every classifier."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from optuna.distributions import CategoricalDistribution, IntDistribution

from offramp.errors import DataError
from offramp_search.pipeline import Measured, random_architecture

if TYPE_CHECKING:
    import numpy as np


class OnlyOdd:
    """A space of two decisions that refuses even sums."""

    def __init__(self, *, refuse_all: bool = False) -> None:
        self.refuse_all = refuse_all

    def decisions(self) -> dict[str, CategoricalDistribution | IntDistribution]:
        return {
            "a": CategoricalDistribution(("x", "y", "z")),
            "b": IntDistribution(3, 9, step=2),
        }

    def refusal(self, architecture: dict[str, str | int]) -> str | None:
        if self.refuse_all or architecture["a"] == "y":
            return "y is refused"
        return None


def test_random_architectures_are_valid_and_even(rng: np.random.Generator) -> None:
    drawn = [random_architecture(OnlyOdd(), rng) for _ in range(800)]  # type: ignore[arg-type]
    counts = {
        (a, b): sum(one == {"a": a, "b": b} for one in drawn)
        for a in ("x", "z")
        for b in (3, 5, 7, 9)
    }
    assert sum(counts.values()) == 800
    # Each of 8 has 100 expected; 60 is more than 4 standard deviations away.
    assert min(counts.values()) > 60


def test_a_space_that_refuses_everything_says_why(rng: np.random.Generator) -> None:
    with pytest.raises(DataError, match="because y is refused"):
        random_architecture(OnlyOdd(refuse_all=True), rng)  # type: ignore[arg-type]


def test_shares_and_accuracy() -> None:
    measured = Measured((True, False, True, True), (0, 2, 0, 0), (1.0, 2.0, 3.0, 6.0))
    assert measured.accuracy == 0.75
    assert measured.exit_shares(3) == (0.75, 0.0, 0.25)
    assert measured.latency.mean_ms == 3.0
