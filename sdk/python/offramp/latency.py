"""Latencies that keep their samples and say their unit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

__all__ = ["Latency", "PredictedLatency"]

# The largest of n samples bounds the q-quantile from above with confidence 1 - q**n; with fewer
# samples than 1 / (1 - q) the empirical quantile is just the maximum and says nothing.
_SAMPLES_FOR_P90 = 10
_SAMPLES_FOR_P99 = 100


@final
@dataclass(frozen=True, slots=True)
class Latency:
    """A measured latency: its samples, in milliseconds, in the order they were taken.

    Attributes:
        samples_ms: One wall-clock time per run, warm-up runs left out.
        warmup_runs: How many runs were made, and thrown away, before the first sample.
    """

    samples_ms: tuple[float, ...]
    warmup_runs: int = 0

    def __post_init__(self) -> None:
        if not self.samples_ms:
            raise ValueError("a latency needs at least one sample, got none")
        if not all(math.isfinite(sample) and sample >= 0 for sample in self.samples_ms):
            raise ValueError("latency samples must be finite and not negative, in milliseconds")

    @property
    def mean_ms(self) -> float:
        """The mean of the samples."""
        return math.fsum(self.samples_ms) / len(self.samples_ms)

    @property
    def median_ms(self) -> float:
        """The median of the samples."""
        ordered = sorted(self.samples_ms)
        middle = len(ordered) // 2
        if len(ordered) % 2:
            return ordered[middle]
        return (ordered[middle - 1] + ordered[middle]) / 2

    @property
    def p90_ms(self) -> float:
        """The 90th percentile; needs at least 10 samples.

        Raises:
            ValueError: There are too few samples to state it.
        """
        return self._percentile(0.90, _SAMPLES_FOR_P90)

    @property
    def p99_ms(self) -> float:
        """The 99th percentile; needs at least 100 samples.

        Raises:
            ValueError: There are too few samples to state it.
        """
        return self._percentile(0.99, _SAMPLES_FOR_P99)

    def _percentile(self, quantile: float, needed: int) -> float:
        if len(self.samples_ms) < needed:
            raise ValueError(
                f"{len(self.samples_ms)} samples cannot state the {quantile:.0%} percentile; "
                f"take at least {needed}"
            )
        ordered = sorted(self.samples_ms)
        return ordered[math.ceil(quantile * len(ordered)) - 1]


@final
@dataclass(frozen=True, slots=True)
class PredictedLatency:
    """A latency put together from a table; never to be shown as a measurement.

    Attributes:
        ms: The predicted time of one run, in milliseconds.
        source: Which table it comes from.
    """

    ms: float
    source: str
