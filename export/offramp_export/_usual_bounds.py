"""The range that an activation is given in eight bits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["usual_bounds"]

_SHARE = 0.99


def usual_bounds(
    smallest: NDArray[np.floating], largest: NDArray[np.floating], *, positions: int
) -> tuple[float, float]:
    """A range that holds zero and all of the activation, but for the oddest of a hundred images.

    One such image in the calibration set would otherwise take the fine steps from all others. What
    it loses is the top of a few values, and images with such values are seldom near a tie.

    Args:
        smallest: ``(images,)`` The smallest value in each calibration image.
        largest: ``(images,)`` The largest. Of fewer than a hundred images none is left out.
        positions: Of the map. Where there is one, as in a squeeze-excite block, a value that is cut
            off is the weight of a whole channel, so nothing is.
    """
    if positions == 1:
        smallest, largest = smallest.min(keepdims=True), largest.max(keepdims=True)
    # What is not a number stays that, so that divergence shows.
    low = np.quantile(smallest, 1 - _SHARE, method="lower")
    high = np.quantile(largest, _SHARE, method="higher")
    return float(np.minimum(low, 0.0)), float(np.maximum(high, 0.0))
