"""Upper confidence limits of latencies."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from offramp.bundle import LatencyEntry
from offramp.calibration import read_latency, student_quantile
from offramp.errors import CalibrationError, ShapeError
from offramp.latency import Latency


@pytest.mark.parametrize(
    ("probability", "degrees", "quantile"),
    # Abramowitz and Stegun, table 26.10.
    [(0.95, 1, 6.314), (0.975, 9, 2.262), (0.995, 19, 2.861), (0.9, 4, 1.533), (0.95, 120, 1.658)],
)
def test_student(probability: float, degrees: int, quantile: float) -> None:
    assert student_quantile(probability, degrees) == pytest.approx(quantile, abs=5e-4)


def test_numbers_are_exact() -> None:
    latency = read_latency([1.0, 2.0, 4.0], 3)
    assert not latency.measured
    for times in (
        latency.mean_ms(),
        latency.mean_limits_ms(0.99),
        latency.quantile_limits_ms(0.999, 0.99),
    ):
        assert times.tolist() == [1.0, 3.0, 7.0]


def test_all_kinds_of_measurements_are_read_alike(rng: np.random.Generator) -> None:
    samples = rng.gamma(50.0, 0.02, (2, 400))
    entry = LatencyEntry(
        program="litert/int8",
        device={"processor": "a"},
        threads=1,
        stage_samples_ms=tuple(tuple(stage) for stage in samples.tolist()),
        warmup_runs=3,
        measured_at="2026-11-24",
    )
    stages = [Latency(tuple(stage)) for stage in samples.tolist()]
    given: tuple[Any, ...] = (entry, stages, samples)
    limits = [read_latency(one, 2).mean_limits_ms(0.95).tolist() for one in given]
    assert limits[0] == limits[1] == limits[2]
    assert read_latency(entry, 2).device == {"processor": "a"}


def test_the_limit_of_the_mean_is_kept(rng: np.random.Generator) -> None:
    """With runs that resemble those before them, as runs of a device do."""
    draws, broken, confidence = 400, 0, 0.9
    for _ in range(draws):
        noise = rng.exponential(1.0, (2, 500))
        drift = np.zeros((2, 500))
        for run in range(1, 500):
            drift[:, run] = 0.5 * drift[:, run - 1] + rng.normal(0, 0.3, 2)
        limits = read_latency(np.maximum(3.0 + noise + drift, 0.01), 2).mean_limits_ms(confidence)
        broken += bool((limits < [4.0, 8.0]).any())
    allowed = 1 - confidence
    assert broken <= draws * allowed + 3 * math.sqrt(draws * allowed * (1 - allowed))


def test_the_limit_of_a_quantile_is_of_whole_passes(rng: np.random.Generator) -> None:
    samples = rng.gamma(50.0, 0.02, (3, 1_000))
    latency = read_latency(samples, 3)
    whole = np.sort(samples.sum(axis=0))
    limits = latency.quantile_limits_ms(0.99, 0.95)
    assert limits[2] in whole[990:]
    assert latency.quantile_ms(0.99)[2] == whole[989]
    assert (np.diff(limits) > 0).all()


def test_too_few_runs_are_told_how_many_it_takes(rng: np.random.Generator) -> None:
    latency = read_latency(rng.random((2, 40)) + 1.0, 2)
    with pytest.raises(CalibrationError, match=r"40 runs of stage 0.*at least 50"):
        latency.mean_limits_ms(0.95)
    with pytest.raises(CalibrationError, match=r"40 runs.*99 % quantile.*at least 299"):
        latency.quantile_limits_ms(0.99, 0.95)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ([1.0], ShapeError, "each of the 2 stages, got 1"),
        ([1.0, float("nan")], CalibrationError, "finite and above 0"),
        ([1.0, -1.0], CalibrationError, "finite and above 0"),
        (np.ones((2, 2, 2)), ShapeError, "each of the 2 stages"),
    ],
)
def test_what_is_no_latency_is_refused(given: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        read_latency(given, 2)


def test_a_quantile_needs_the_same_passes() -> None:
    uneven = [Latency((1.0,) * 400), Latency((1.0,) * 500)]
    with pytest.raises(ShapeError, match=r"\[400, 500\] times"):
        read_latency(uneven, 2).quantile_limits_ms(0.99, 0.95)
