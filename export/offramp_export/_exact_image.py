"""Normalising an image so that eight bits keep every pixel value exact.

A normalised image has a step of its own for every colour, so int8, which has one for all of them,
rounds pixels that came as whole numbers. Of all roundings in a ResNet-20 that one moves the logits
most. A number of steps from a middle grey is a whole number again, and a division by a power of two
keeps it one; what else the normalisation does, the first convolution does with its weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ExactImage", "split_normalization"]

_COLOURS = 3
_CONSTANTS = (16, 32, 64, 96)
_ALMOST_NOTHING = 1e-4  # a row of zeros would have no scale


@final
@dataclass(frozen=True, slots=True)
class ExactImage:
    """A 1×1 convolution of pixels, and the convolution that reads what it makes.

    Attributes:
        weights: ``(4, 3)`` float32 of the first one: the colours, divided, and a constant.
        bias: ``(4,)`` float32.
        reader_weights: ``(outputs, height, width, 4)`` float32 of the second one.
        unit: What one pixel value has become; a power of two.
        grey: The pixel value that has become zero.
    """

    weights: NDArray[np.float32]
    bias: NDArray[np.float32]
    reader_weights: NDArray[np.float32]
    unit: float
    grey: int

    @property
    def bounds(self) -> tuple[float, float]:
        """The smallest and the largest value: 256 steps of one unit."""
        return -self.grey * self.unit, (255 - self.grey) * self.unit


def split_normalization(
    scale: NDArray[np.float32], offset: NDArray[np.float32], reader_weights: NDArray[np.float32]
) -> ExactImage | None:
    """Move the inexact part of a normalisation into the convolution that reads it.

    With pixels p, normalised ``scale p + offset``, and ``y = unit (p - grey)`` the convolution is
    ``sum w scale / unit y + sum w (scale grey + offset)``. The second sum is the same everywhere
    but at the border, where the convolution reads zeros; a fourth colour that is constant inside
    and zero outside, as the padding makes it, carries it.

    Args:
        scale: ``(3,)`` float32.
        offset: ``(3,)`` float32.
        reader_weights: ``(outputs, height, width, 3)`` float32.

    Returns:
        ``None`` where there are not three colours, or they are normalised so differently that the
        fourth one would take the precision of the others.
    """
    if scale.shape != (_COLOURS,) or reader_weights.shape[3] != _COLOURS or not scale.all():
        return None
    scales, offsets = scale.astype(np.float64), offset.astype(np.float64)
    unit = 2.0 ** round(math.log2(float(np.abs(scales).mean())))
    grey = int(np.clip(np.rint((-offsets / scales).mean()), 0, 255))
    colours = reader_weights * (scales / unit)
    rest = (reader_weights * (scales * grey + offsets)).sum(3, keepdims=True)
    largest = np.abs(colours).max((1, 2, 3))
    for constant in _CONSTANTS:
        fourth = rest / (constant * unit)
        if constant <= 255 - grey and (np.abs(fourth).max((1, 2, 3)) <= largest).all():
            break
    else:
        return None
    weights = np.zeros((_COLOURS + 1, _COLOURS), np.float32)
    weights[:_COLOURS] = np.eye(_COLOURS) * unit
    weights[_COLOURS, 0] = _ALMOST_NOTHING * unit
    bias = np.array([-grey * unit] * _COLOURS + [constant * unit], np.float32)
    readers = np.concatenate([colours, fourth], 3).astype(np.float32)
    return ExactImage(weights, bias, readers, unit, grey)
