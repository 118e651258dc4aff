"""The path that lets each exit answer where it costs least for the time it saves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from offramp.calibration._path import enable_used, round_up

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from offramp.calibration._path import CandidatePath

__all__ = ["cost_aware_path", "isotonic_falling"]

_BINS = 50
_MOST_CANDIDATES = 200


def cost_aware_path(
    signals: NDArray[np.float64], costs: ArrayLike, exit_ms: NDArray[np.float64]
) -> CandidatePath:
    """Build the path whose candidates all pay the same price for a millisecond.

    For each exit the mean cost at a signal is estimated as a curve that never rises with the
    signal. At a price, an exit answers from the smallest signal on at which it costs at most the
    price times the milliseconds it saves against the last exit. The price grows along the path.
    As with the shared threshold, the first candidate has no early exit: the curves are estimates,
    and even the cheapest exit may be too dear to certify.

    Args:
        signals: ``(early exits, images)`` float64 between 0 and 1, at the temperatures chosen.
        costs: ``(early exits, images)``, what leaving there costs: 1 for an image that is lost, -1
            for one gained.
        exit_ms: ``(exits,)``, mean time until each exit answers, rising.
    """
    early, images = signals.shape
    costs = np.asarray(costs, dtype=np.float64)
    saved_ms = exit_ms[-1] - exit_ms[:-1]
    edges, prices = [], []
    for exit in range(early):
        lows, means = _curve(signals[exit], costs[exit])
        edges.append(lows)
        prices.append(means / saved_ms[exit])
    steps = np.unique(np.concatenate(prices)) if early and images else np.empty(0)
    if len(steps) > _MOST_CANDIDATES:
        steps = steps[np.linspace(0, len(steps) - 1, _MOST_CANDIDATES).round().astype(np.int64)]
    thresholds = np.ones((len(steps), early))
    allowed = np.zeros((len(steps), early), dtype=np.bool_)
    for exit in range(early):
        # Bins lie by falling signal and prices never fall along them: count those affordable.
        affordable = np.searchsorted(prices[exit], steps, side="right")
        allowed[:, exit] = affordable > 0
        thresholds[allowed[:, exit], exit] = edges[exit][affordable[allowed[:, exit]] - 1]
    return enable_used(thresholds, allowed, signals)


def _curve(
    signals: NDArray[np.float64], costs: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bins by falling signal: the threshold that lets each one in, and its mean cost.

    Bins hold equally many images, and equal signals are never parted.
    """
    order = np.argsort(-signals, kind="stable")
    falling, cost = signals[order], costs[order]
    last_of_equals = np.append(falling[:-1] != falling[1:], True)
    wanted = np.unique(np.linspace(0, len(order), _BINS + 1).round().astype(np.int64)[1:]) - 1
    possible = np.flatnonzero(last_of_equals)
    ends = np.unique(possible[np.searchsorted(possible, wanted)])
    below = np.append(falling[1:], 0.0)[ends]
    lows = round_up((falling[ends] + below) / 2.0)
    lows[-1] = 0.0
    counts = np.diff(np.append(-1, ends))
    sums = np.diff(np.append(0.0, np.cumsum(cost)[ends]))
    # By falling signal the cost may only rise: the same curve read from the other side.
    return lows, -isotonic_falling(-sums / counts, counts)


def isotonic_falling(
    values: NDArray[np.float64], weights: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The sequence that never rises and is closest in weighted least squares.

    Pool adjacent violators (Barlow, Bartholomew, Bremner and Brunk 1972, section 1.2).

    Args:
        values: ``(n,)``.
        weights: ``(n,)``, positive.
    """
    pools: list[tuple[float, int, int]] = []  # mean, weight, length
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        mean, heavy, length = value, weight, 1
        while pools and pools[-1][0] < mean:
            before, weight_before, length_before = pools.pop()
            mean = (before * weight_before + mean * heavy) / (weight_before + heavy)
            heavy += weight_before
            length += length_before
        pools.append((mean, heavy, length))
    return np.repeat([pool[0] for pool in pools], [pool[2] for pool in pools]).astype(np.float64)
