"""One temperature per exit, so that exits trained apart can share one threshold."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["fit_temperature"]

_SMALLEST, _LARGEST = 0.05, 20.0
# Each step keeps 0.618 of the interval: 40 steps leave 3e-8 of the range of log T.
_STEPS = 40
_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0


def fit_temperature(logits: ArrayLike, labels: NDArray[np.int64]) -> float:
    """Find the temperature that makes an exit's probabilities most likely.

    Minimises the mean negative log-likelihood of ``softmax(logits / T)`` over ``log T`` between
    0.05 and 20 by golden-section search, in float64. The likelihood is concave in ``1 / T``, so
    that it has one maximum in ``log T`` too (Guo et al. 2017, arXiv 1706.04599, section 4.2).

    Args:
        logits: ``(images, classes)``, finite.
        labels: ``(images,)``, from 0 to ``classes - 1``.

    Returns:
        The temperature; at a bound of the range if the likelihood still rises there.
    """
    shifted = np.asarray(logits, dtype=np.float64)
    # The largest logit is zero from here on, so no exponential can overflow at any temperature.
    shifted = shifted - shifted.max(axis=-1, keepdims=True)
    of_label = np.take_along_axis(shifted, labels[:, np.newaxis], axis=-1)[:, 0]

    def loss(log_temperature: float) -> float:
        temperature = math.exp(log_temperature)
        normaliser = np.log(np.exp(shifted / temperature).sum(axis=-1))
        return float(np.mean(normaliser - of_label / temperature))

    low, high = math.log(_SMALLEST), math.log(_LARGEST)
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = loss(left), loss(right)
    for _ in range(_STEPS):
        # A tie moves down from the right: an exit that is always sure and right has a flat loss at
        # low temperatures and an exit that knows nothing at high ones.
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - _GOLDEN * (high - low)
            at_left = loss(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + _GOLDEN * (high - low)
            at_right = loss(right)
    return math.exp((low + high) / 2.0)
