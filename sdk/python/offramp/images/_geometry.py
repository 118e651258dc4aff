"""Which pixels of an image the input shows: the region, the crop, the turn."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from offramp.bundle import InputSpec

__all__ = ["Region", "check_rotation", "crop_box", "region_box"]

Region = tuple[float, float, float, float]
"""``(left, top, right, bottom)`` as fractions of the width and height, each from 0 to 1."""


def crop_box(width: int, height: int, spec: InputSpec) -> tuple[int, int, int, int]:
    """The part of an image that the input shows.

    For ``cover`` it is the largest part of the input's proportions, from the middle, in whole
    pixels: its longer-than-needed side is ``height * spec.width / spec.height`` (or the same with
    the sides exchanged), halves rounded up, and the odd pixel is left over at the right or bottom.

    Args:
        width: Of the image, in pixels.
        height: Of the image, in pixels.
        spec: The input.

    Returns:
        ``(left, top, right, bottom)``, in pixels, right and bottom exclusive.
    """
    left, top, right, bottom = 0, 0, width, height
    if spec.resize == "cover":
        if width * spec.height > height * spec.width:
            kept = max(1, (2 * height * spec.width + spec.height) // (2 * spec.height))
            left = (width - kept) // 2
            right = left + kept
        else:
            kept = max(1, (2 * width * spec.height + spec.width) // (2 * spec.width))
            top = (height - kept) // 2
            bottom = top + kept
    return left, top, right, bottom


def region_box(width: int, height: int, region: Region) -> tuple[int, int, int, int]:
    """The whole pixels of a region: each edge is rounded to the nearest, halves upwards.

    A region thinner than a pixel keeps the one its left or top edge is rounded to.

    Args:
        width: Of the upright image, in pixels.
        height: Of the upright image, in pixels.
        region: What to keep.

    Returns:
        ``(left, top, right, bottom)``, in pixels, right and bottom exclusive.

    Raises:
        ValueError: The region is empty or reaches beyond the image.
    """
    values = tuple(region)
    if not (
        len(values) == 4
        and all(math.isfinite(value) and 0.0 <= value <= 1.0 for value in values)
        and values[0] < values[2]
        and values[1] < values[3]
    ):
        raise ValueError(
            f"region is {region}, expected (left, top, right, bottom) as fractions "
            "with 0 <= left < right <= 1 and 0 <= top < bottom <= 1"
        )
    left, right = _pixels(values[0], values[2], width)
    top, bottom = _pixels(values[1], values[3], height)
    return left, top, right, bottom


def _pixels(first: float, last: float, size: int) -> tuple[int, int]:
    begin = min(math.floor(first * size + 0.5), size - 1)
    return begin, max(begin + 1, math.floor(last * size + 0.5))


def check_rotation(rotation_degrees: int) -> int:
    """How many quarter turns clockwise: 0 to 3.

    Raises:
        ValueError: It is no multiple of 90.
    """
    if rotation_degrees % 90:
        raise ValueError(f"rotation_degrees is {rotation_degrees}, expected a multiple of 90")
    return int(rotation_degrees // 90) % 4
