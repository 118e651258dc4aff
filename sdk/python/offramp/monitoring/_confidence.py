"""Histograms of confidence, and how far two of them are apart."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["CONFIDENCE_EDGES", "population_stability"]

CONFIDENCE_EDGES = (0.4, 0.6, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 0.9999)
"""Upper ends of the bins, inclusive, but for the last one, which ends at 1: finer towards
certainty, where early exits answer."""

_SMOOTHING = 0.5


def population_stability(reference: Sequence[int], counts: Sequence[int]) -> float | None:
    """The population stability index of two histograms: ``sum((p - q) * ln(p / q))``.

    Half a count is added to every bin, so that an empty one has a logarithm. By custom, a change is
    called large above 0.25 and none below 0.1. Without any change the index is about
    ``(bins - 1) * (1 / total + 1 / reference total)``.

    Args:
        reference: Counts to compare with.
        counts: As many counts.

    Returns:
        The index; ``None`` if a histogram has fewer counts than 20 times its bins, of which chance
        alone would make 0.1.
    """
    bins = len(reference)
    if min(sum(reference), sum(counts)) < 20 * bins:
        return None
    totals = [sum(side) + _SMOOTHING * bins for side in (reference, counts)]
    index = 0.0
    for expected, seen in zip(reference, counts, strict=True):
        q = (expected + _SMOOTHING) / totals[0]
        p = (seen + _SMOOTHING) / totals[1]
        index += (p - q) * math.log(p / q)
    return index
