"""What is worth keeping of many networks, and one number for how good that is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["hypervolume", "pareto_front"]


def pareto_front(points: NDArray[np.float64]) -> NDArray[np.intp]:
    """The rows of points that no other point beats.

    A point is beaten by one that is as fast and as accurate, and better in one of the two. Of
    equal points the first is kept.

    Args:
        points: ``(n, 2)`` float64, mean latency in milliseconds and accuracy.

    Returns:
        ``(k,)`` rows, by latency.
    """
    order = np.lexsort((np.arange(len(points)), -points[:, 1], points[:, 0]))
    accuracies = points[order, 1]
    before = np.concatenate([[-np.inf], np.maximum.accumulate(accuracies)[:-1]])
    kept: NDArray[np.intp] = order[accuracies > before]
    return kept


def hypervolume(points: NDArray[np.float64], *, slowest_ms: float, worst_accuracy: float) -> float:
    """The area that points dominate, up to a reference point (Zitzler and Thiele 1999).

    Args:
        points: ``(n, 2)`` float64, mean latency in milliseconds and accuracy.
        slowest_ms: The reference's latency; points that are slower count nothing.
        worst_accuracy: The reference's accuracy; points below it count nothing.

    Returns:
        Milliseconds times accuracy, at least 0.
    """
    inside = points[(points[:, 0] < slowest_ms) & (points[:, 1] > worst_accuracy)]
    front = inside[pareto_front(inside)]
    widths = np.diff(np.append(front[:, 0], slowest_ms))
    return float(np.sum(widths * (front[:, 1] - worst_accuracy)))
