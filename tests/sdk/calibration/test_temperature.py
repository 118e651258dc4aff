"""The temperature is the best one, and stays finite on extreme logits."""

from __future__ import annotations

import math

import numpy as np
import pytest

from offramp.calibration import fit_temperature
from offramp.policy import probabilities


def loss(logits: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    chosen = probabilities(logits, temperature)[np.arange(len(labels)), labels]
    return float(-np.log(chosen).mean())


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_the_temperature_that_made_the_labels_is_found(
    rng: np.random.Generator, temperature: float
) -> None:
    logits = rng.normal(scale=3.0, size=(20_000, 5)) * temperature
    cumulative = probabilities(logits, temperature).cumsum(axis=1)
    labels = (rng.random((20_000, 1)) > cumulative).sum(axis=1)
    assert fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.05)


def test_no_temperature_of_a_fine_grid_is_better(rng: np.random.Generator) -> None:
    logits = rng.normal(scale=2.0, size=(300, 7)).astype(np.float32)
    labels = np.where(rng.random(300) < 0.7, logits.argmax(axis=1), rng.integers(0, 7, 300))
    best = loss(logits, labels, fit_temperature(logits, labels))
    for log_temperature in np.linspace(math.log(0.05), math.log(20), 2_000):
        assert best <= loss(logits, labels, math.exp(log_temperature)) + 1e-12


def test_an_exit_that_is_always_right_gets_the_lowest_temperature() -> None:
    labels = np.arange(10) % 3
    assert fit_temperature(np.eye(3)[labels], labels) == pytest.approx(0.05, rel=0.01)


def test_an_exit_that_is_always_wrong_gets_the_highest_temperature() -> None:
    labels = np.arange(10) % 3
    assert fit_temperature(np.eye(3)[(labels + 1) % 3] * 50, labels) == pytest.approx(20, rel=0.01)


def test_huge_logits_overflow_nothing() -> None:
    logits = np.array([[1e30, -1e30], [-1e30, 1e30]], dtype=np.float32)
    assert 0.04 < fit_temperature(logits, np.array([0, 1])) < 20.1


def test_adding_a_constant_to_an_image_changes_nothing(rng: np.random.Generator) -> None:
    logits = rng.normal(size=(200, 4))
    labels = rng.integers(0, 4, 200)
    moved = logits + rng.normal(size=(200, 1)) * 100
    assert fit_temperature(moved, labels) == pytest.approx(fit_temperature(logits, labels))
