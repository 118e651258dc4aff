"""Quantiles of latencies in constant memory, to a stated relative error."""

from __future__ import annotations

import math
from bisect import bisect_left
from itertools import accumulate
from math import log as _log
from typing import TYPE_CHECKING, Self, final

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["LatencySketch"]

_ERROR = 0.01
_GROWTH = (1.0 + _ERROR) / (1.0 - _ERROR)
_SMALLEST_MS = 1e-4
_LARGEST_MS = 1e6
_PER_LOG = 1.0 / math.log(_GROWTH)
_FIRST = math.log(_SMALLEST_MS) * _PER_LOG
_BUCKETS = math.ceil(math.log(_LARGEST_MS) * _PER_LOG - _FIRST) + 1


@final
class LatencySketch:
    """Counts of latencies in buckets that grow by 2 %.

    A quantile is within 1 % of the sample it stands for, from 0.1 µs to 1000 s (Masson, Rim and
    Lee 2019, DDSketch, section 2.1, with a fixed range of buckets). Two sketches add up to the
    sketch of both.
    """

    __slots__ = ("_counts", "largest_ms", "sum_ms")

    def __init__(self) -> None:
        self._counts = [0] * _BUCKETS
        self.sum_ms = 0.0
        self.largest_ms = 0.0

    def add(self, ms: float) -> None:
        """Count one latency, in milliseconds."""
        self.extend((ms,))

    def extend(self, latencies_ms: Iterable[float]) -> None:
        """Count some latencies, in milliseconds."""
        counts, sum_ms, largest_ms = self._counts, self.sum_ms, self.largest_ms
        for ms in latencies_ms:
            place = int(_log(ms) * _PER_LOG - _FIRST) + 1 if ms > _SMALLEST_MS else 0
            counts[place if place < _BUCKETS else -1] += 1
            sum_ms += ms
            if ms > largest_ms:
                largest_ms = ms
        self.sum_ms, self.largest_ms = sum_ms, largest_ms

    @property
    def count(self) -> int:
        """How many latencies were counted."""
        return sum(self._counts)

    def quantile_ms(self, quantile: float) -> float:
        """The smallest latency that a share of all does not exceed, within 1 %.

        Args:
            quantile: The share, above 0 and up to 1.

        Raises:
            ValueError: The quantile is out of range, or nothing has been counted.
        """
        if not 0.0 < quantile <= 1.0:
            raise ValueError(f"the quantile is {quantile}, expected above 0 and up to 1")
        reached = list(accumulate(self._counts))
        if reached[-1] == 0:
            raise ValueError("no latency has been counted yet")
        place = bisect_left(reached, math.ceil(quantile * reached[-1]))
        upper = math.exp((place + _FIRST) / _PER_LOG)
        return min(2.0 * upper / (_GROWTH + 1.0), self.largest_ms)

    def buckets(self) -> tuple[tuple[int, int], ...]:
        """The buckets in use: number and count of each."""
        return tuple((place, count) for place, count in enumerate(self._counts) if count)

    @classmethod
    def of(cls, buckets: Iterable[tuple[int, int]], sum_ms: float, largest_ms: float) -> Self:
        """The sketch that has these buckets.

        Raises:
            ValueError: There is no such bucket.
        """
        sketch = cls()
        for place, count in buckets:
            if not 0 <= place < _BUCKETS:
                raise ValueError(f"bucket {place}, expected 0 to {_BUCKETS - 1}")
            sketch._counts[place] += count
        sketch.sum_ms = sum_ms
        sketch.largest_ms = largest_ms
        return sketch
