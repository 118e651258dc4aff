"""Whether a scene has changed, cheaply."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["difference", "thumbnail"]

_BLOCKS = 16


def thumbnail(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Means of 16 × 16 blocks, or of as many as the image has pixels.

    Args:
        image: ``(height, width, 3)`` uint8.

    Returns:
        ``(rows, columns, 3)`` float32, 0 to 255. Blocks that do not divide the image evenly differ
        by one pixel in size.
    """
    values: NDArray[Any] = image
    for axis in (0, 1):
        size = image.shape[axis]
        edges = np.linspace(0, size, min(_BLOCKS, size) + 1).astype(np.int64)
        sums = np.add.reduceat(values, edges[:-1], axis=axis, dtype=np.float32)
        shape = [1, 1, 1]
        shape[axis] = -1
        values = sums / np.diff(edges).astype(np.float32).reshape(shape)
    return values


def difference(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """The largest difference of two thumbnails, of all blocks and colours.

    Not the mean, so that something small that moves counts as much as something large.
    """
    return float(np.abs(first - second).max())
