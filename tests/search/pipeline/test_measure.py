"""Interleaved measurement counts every image once for every classifier."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, IntDistribution

from offramp.bundle import InputSpec, Policy
from offramp.classifier import DynamicClassifier
from offramp.errors import DataError
from offramp.testing import FakeRuntime
from offramp_search.data import ImageSet
from offramp_search.pipeline import Measured, measure_interleaved, random_architecture

if TYPE_CHECKING:
    from collections.abc import Iterator


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


@pytest.fixture
def classifiers() -> Iterator[dict[str, DynamicClassifier]]:
    """Sure of class 0 at its first exit, of class 1 at its last; the policy decides who answers."""
    spec = InputSpec(height=4, width=4)
    made = {}
    for name, enabled in (("early", True), ("late", False)):
        logits = np.array([[[9.0, 0.0]], [[0.0, 9.0]]], np.float32)
        policy = Policy(
            name="default",
            program="litert/float32",
            signal="max_probability",
            temperatures=(1.0, 1.0),
            thresholds=(0.9, 0.0),
            enabled=(enabled, True),
        )
        runtime = FakeRuntime(logits, image_shape=(4, 4))
        made[name] = DynamicClassifier(runtime, labels=("a", "b"), input_spec=spec, policy=policy)
    yield made
    for classifier in made.values():
        classifier.close()


def test_every_image_counts_once_for_every_classifier(
    classifiers: dict[str, DynamicClassifier],
) -> None:
    labels = np.arange(123, dtype=np.int64) % 2
    data = ImageSet(np.zeros((123, 4, 4, 3), np.uint8), labels)
    seen: list[int] = []
    measured = measure_interleaved(
        classifiers, data, progress=lambda done, _total: seen.append(done)
    )
    assert measured["early"].correct == tuple(bool(label == 0) for label in labels)
    assert measured["late"].correct == tuple(bool(label == 1) for label in labels)
    assert set(measured["early"].exits) == {0}
    assert set(measured["late"].exits) == {1}
    assert all(len(one.samples_ms) == 123 for one in measured.values())
    assert seen[-1] == 123
