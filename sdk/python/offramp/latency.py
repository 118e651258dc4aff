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

    def bound_ms(self, quantile: float, confidence: float = 0.95) -> float:
        """An upper confidence bound of a quantile, by order statistics.

        The k-th smallest of n independent samples lies above the q-quantile with probability
        ``P(Binomial(n, q) < k)`` at least, whatever their distribution; the smallest k that
        reaches the confidence is taken. With fewer than ``log(1 - confidence) / log(q)`` samples
        (299 for a 99th percentile at 95 %) none does: then it is the largest sample, and the
        confidence ``1 - q ** n``.

        Args:
            quantile: Between 0 and 1, both exclusive.
            confidence: Between 0 and 1, both exclusive.
        """
        if not (0 < quantile < 1 and 0 < confidence < 1):
            raise ValueError(
                f"quantile is {quantile} and confidence {confidence}; both lie between 0 and 1"
            )
        ordered = sorted(self.samples_ms)
        rank = len(ordered)
        # Down from the largest: above = P(at least `rank` of n samples are below the quantile).
        log_term = rank * math.log(quantile)
        above = math.exp(log_term)
        while rank > 1:
            # The next term of the binomial tail, by its ratio to the one before.
            log_term += math.log(rank / (len(ordered) - rank + 1))
            log_term += math.log1p(-quantile) - math.log(quantile)
            above += math.exp(log_term)
            if above > 1.0 - confidence:
                break
            rank -= 1
        return ordered[rank - 1]

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
