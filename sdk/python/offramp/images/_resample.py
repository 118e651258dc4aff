"""Resampling to the bit, in numpy alone.

This is docs/images.md in code: what every binding computes, and what Pillow's 8-bit resampling
computes when its horizontal pass comes first. Weights are worked out in float64, one rounding
after each operation, and become whole multiples of 2**-22; pixels see whole numbers only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["PRECISION_BITS", "nearest_positions", "resample", "resample_weights"]

PRECISION_BITS = 22
"""8 bits for the pixel and 2 for the overshoot of negative weights leave so many of 32."""


def resample(pixels: NDArray[np.uint8], width: int, height: int, kernel: str) -> NDArray[np.uint8]:
    """Scale an image: all of its rows first, then the columns of the result.

    Args:
        pixels: ``(rows, columns, channels)`` uint8.
        width: Columns wanted.
        height: Rows wanted.
        kernel: ``bilinear``, ``bicubic``, ``box`` or ``nearest``.

    Returns:
        ``(height, width, channels)`` uint8.
    """
    rows, columns = pixels.shape[:2]
    if (rows, columns) == (height, width):
        return pixels.copy()
    if kernel == "nearest":
        down = nearest_positions(rows, height)[:, None]
        return pixels[down, nearest_positions(columns, width)]
    if columns != width:
        pixels = _pass(pixels, width, kernel)
    if rows != height:
        pixels = _pass(pixels.transpose(1, 0, 2), height, kernel).transpose(1, 0, 2)
    return np.ascontiguousarray(pixels)


def resample_weights(
    size: int, wanted: int, kernel: str
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """What each output pixel takes from which input pixels, along one axis.

    Args:
        size: Input pixels.
        wanted: Output pixels.
        kernel: ``bilinear``, ``bicubic`` or ``box``.

    Returns:
        ``(wanted,)`` int64, the first input pixel of each window, and ``(wanted, taps)`` int32,
        the weights in units of ``2**-PRECISION_BITS``, zero beyond the window.
    """
    reach, function = _KERNELS[kernel]
    scale = size / wanted
    stretch = max(scale, 1.0)
    support = reach * stretch
    center = (np.arange(wanted) + 0.5) * scale
    first = np.maximum(np.trunc(center - support + 0.5).astype(np.int64), 0)
    end = np.minimum(np.trunc(center + support + 0.5).astype(np.int64), size)
    taps = np.arange(int((end - first).max()))
    distance = ((taps + first[:, None]) - center[:, None] + 0.5) * (1.0 / stretch)
    weights = np.where(taps < (end - first)[:, None], function(distance), 0.0)
    # One after the other, from the left: `sum` would add in pairs and round elsewhere.
    total = np.add.accumulate(weights, axis=1)[:, -1:]
    weights = np.divide(weights, total, out=weights, where=total != 0.0)
    fixed = np.trunc(weights * 2.0**PRECISION_BITS + np.where(weights < 0.0, -0.5, 0.5))
    return first, fixed.astype(np.int32)


def nearest_positions(size: int, wanted: int) -> NDArray[np.int64]:
    """The input pixel that each output pixel repeats, along one axis.

    The positions are added up, each sum rounded to float64, as Pillow does; multiplying instead
    would land on the other side of some pixel edges.
    """
    scale = size / wanted
    steps = np.full(wanted, scale)
    steps[0] = scale * 0.5
    return np.trunc(np.add.accumulate(steps)).astype(np.int64)


def _pass(pixels: NDArray[np.uint8], wanted: int, kernel: str) -> NDArray[np.uint8]:
    """Scale the second axis."""
    size = pixels.shape[1]
    first, weights = resample_weights(size, wanted, kernel)
    result = np.full(
        (pixels.shape[0], wanted, pixels.shape[2]), 1 << (PRECISION_BITS - 1), np.int32
    )
    for tap in range(weights.shape[1]):
        column = np.minimum(first + tap, size - 1)
        result += pixels[:, column].astype(np.int32) * weights[:, tap, None]
    scaled: NDArray[np.uint8] = np.clip(result >> PRECISION_BITS, 0, 255).astype(np.uint8)
    return scaled


def _box(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where((x > -0.5) & (x <= 0.5), 1.0, 0.0)


def _bilinear(x: NDArray[np.float64]) -> NDArray[np.float64]:
    x = np.abs(x)
    return np.where(x < 1.0, 1.0 - x, 0.0)


def _bicubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys 1981, equation 4, with a = -1/2."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


# The reach of each on either side, and its value at a distance, in pixels of the coarser grid.
_KERNELS: dict[str, tuple[float, Callable[[NDArray[np.float64]], NDArray[np.float64]]]] = {
    "box": (0.5, _box),
    "bilinear": (1.0, _bilinear),
    "bicubic": (2.0, _bicubic),
}
