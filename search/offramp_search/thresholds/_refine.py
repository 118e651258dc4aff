"""A threshold for each exit, improved two at a time."""

from __future__ import annotations

import math
from itertools import permutations
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from offramp_search.thresholds._answers import Answers

__all__ = ["refine"]

_GRID = 24
_MAX_ROUNDS = 3


def refine(
    answers: Answers, thresholds: tuple[float, ...], max_mean_ms: float
) -> tuple[float, ...]:
    """Improve the thresholds of pairs of exits until no pair gets better.

    For a pair, one threshold walks over quantiles of its exit's signal (and "disabled") while the
    other is solved exactly for each of them. One alone would not do: under a budget that binds,
    time must be taken from one exit to be spent at another.

    Args:
        answers: The split.
        thresholds: Where to start, one per exit but the last; must keep the limit.
        max_mean_ms: The limit, in milliseconds.

    Returns:
        Thresholds that keep the limit and are no worse than those given.
    """
    early = range(len(thresholds))
    orders = [np.argsort(-answers.signals[exit], kind="stable") for exit in early]
    grids = [_grid(answers.signals[exit]) for exit in early]
    pairs = list(permutations(early, 2)) or [(exit, exit) for exit in early]
    best = thresholds
    outcome = answers.outcome(best)
    for _ in range(_MAX_ROUNDS):
        before = outcome
        for walked, solved in pairs:
            for value in (best[walked], *grids[walked]):
                trial = list(best)
                trial[walked] = value
                correct, trial[solved] = _best_threshold(
                    answers, trial, solved, orders[solved], max_mean_ms
                )
                if correct >= outcome.correct:
                    candidate = answers.outcome(trial)
                    if candidate.mean_ms <= max_mean_ms and candidate.better_than(outcome):
                        best, outcome = tuple(trial), candidate
        if outcome == before:
            break
    return best


def _grid(signal: NDArray[np.float64]) -> list[float]:
    """Quantiles that are values of the signal itself, and the one that disables the exit."""
    quantiles = np.quantile(signal, np.linspace(0, 1, _GRID), method="higher")
    return [*np.unique(quantiles).tolist(), math.inf]


def _best_threshold(
    answers: Answers,
    thresholds: list[float],
    exit: int,
    order: NDArray[np.int64],
    max_mean_ms: float,
) -> tuple[int, float]:
    """The best threshold of one exit, and the images then right, while the others stay.

    Where no threshold of this exit keeps the limit, the images right are -1.
    """
    alone = [*thresholds[:exit], math.inf, *thresholds[exit + 1 :]]
    otherwise = answers.leave(alone)
    right = answers.right(otherwise)
    late_ms = answers.cumulative_ms[otherwise]

    # Only images that come to this exit can leave here, surest first.
    order = order[otherwise[order] > exit]
    values = answers.signals[exit][order]
    gained = answers.correct[exit, order].astype(np.int64) - right[order]
    saved = late_ms[order] - answers.cumulative_ms[exit]

    # Equal values leave together: only the last of each run is a threshold.
    ends = np.flatnonzero(values[1:] != values[:-1]) + 1
    points = np.concatenate(([0], ends, [len(values)] if len(values) else [])).astype(np.int64)
    correct = int(right.sum()) + np.concatenate(([0], np.cumsum(gained)))[points]
    total_ms = late_ms.sum() - np.concatenate(([0.0], np.cumsum(saved)))[points]
    # These sums round; the caller compares with the limit once more, from counts.
    allowed = total_ms <= max_mean_ms * (1 + 1e-12) * answers.images
    if not allowed.any():
        return -1, math.inf
    ranked = np.where(allowed, correct, -1)
    top = np.flatnonzero(ranked == ranked.max())
    point = int(top[total_ms[top].argmin()])
    threshold = math.inf if point == 0 else float(values[points[point] - 1])
    return int(correct[point]), threshold
